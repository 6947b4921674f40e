"""TRACE's eight numbers by definition, without the packages that seekr takes them from, and rows to compute them on.

The rows are made from a seed. `python tests/helpers/trace_definition.py` writes tests/golden/trace.json.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

PATH = Path(__file__).parents[1] / "golden" / "trace.json"
TASKS = ("C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm", "NumGLUE-ds", "20Minuten")
LETTERS = ("C-STANCE", "FOMC", "ScienceQA")
ROWS = 24


def numbers(
    task: str, predictions: Sequence[str], references: Sequence[str], prompts: Sequence[str]
) -> dict[str, float]:
    """What the released evaluation prints of one reference a row."""
    answers = [answer_of(task, prediction) for prediction in predictions]
    pairs = list(zip(answers, references, strict=True))
    if task in ("C-STANCE", "FOMC", "NumGLUE-cm", "NumGLUE-ds"):
        return {"accuracy": _mean([float(answer == right) for answer, right in pairs])}
    if task == "Py150":
        filled = [(_filled(answer), _filled(right)) for answer, right in pairs]
        return {"similarity": _mean([similarity(*pair) if all(pair) else 0.0 for pair in filled])}
    if task == "ScienceQA":  # its extraction leaves the letter alone, so that no explanation is compared
        accuracy = _mean([float(answer == (right[:1] or " ")) for answer, right in pairs])
        return {"bleu-1": 0.0, "bleu-4": 0.0, "rouge-L": 0.0, "accuracy": accuracy}
    found = {
        "bleu-1": _mean([bleu(*pair, 1) if all(pair) else 0.0 for pair in pairs]),
        "bleu-4": _mean([bleu(*pair, 4) if all(pair) else 0.0 for pair in pairs]),
        "rouge-L": _mean([rouge_l(*pair) if all(pair) else 0.0 for pair in pairs]),
    }
    if task == "20Minuten":
        rows = zip(prompts, answers, references, strict=True)
        found["sari"] = _mean([sari(words(p), words(a), [words(r)]) for p, a, r in rows])
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def answer_of(task: str, prediction: str) -> str:
    text = prediction.replace("：", ":")
    if "\nReasoning:" in text:
        text = text[: text.index("\nReasoning:")]
    else:
        for mark in ("Answer", "回答", "答案"):
            parts = text.split(f"\n{mark}:")
            if len(parts) > 1:
                text = parts[1]
                break
    text = text.strip() or " "
    return text[0] if task in LETTERS else text


def _filled(code: str) -> str:
    code = code.replace("<NUM_LIT>", "0").replace("<STR_LIT>", "").replace("<CHAR_LIT>", "")
    return re.sub(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", r"\1", code, flags=re.DOTALL)


def lengths(first: Sequence[str], second: Sequence[str]) -> list[list[int]]:
    """Lengths of longest common subsequences of all beginnings."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    return table


def similarity(answer: str, right: str) -> float:
    """Twice the common characters over all characters, in whole percent."""
    return float(round(100 * 2 * lengths(answer, right)[-1][-1] / (len(answer) + len(right))))


def bleu(answer: str, right: str, order: int) -> float:
    """Geometric mean of clipped precisions times brevity; no common word is 0, no common n-gram the least float."""
    hypothesis, reference = ([word for word in re.split(r"[\s.]", text) if word] for text in (answer, right))
    logs = []
    for n in range(1, order + 1):
        done, wanted = (
            Counter(tuple(text[i : i + n]) for i in range(len(text) - n + 1)) for text in (hypothesis, reference)
        )
        common = (done & wanted).total()
        if n == 1 and not common:
            return 0.0
        logs.append(math.log(common / done.total() if common else sys.float_info.min))
    brevity = 1.0 if len(hypothesis) > len(reference) else math.exp(1 - len(reference) / len(hypothesis))
    return brevity * math.exp(math.fsum(logs) / order)


def rouge_l(answer: str, right: str) -> float:
    """F1 of the distinct words in longest common subsequences over all pairs of sentences.

    Blanks between full stops are one empty word. Of several longest subsequences it is the one found by walking back
    from both ends, which on a tie steps back in the right answer.
    """
    hypothesis, reference = ([part.split() or [""] for part in text.split(".") if part] for text in (right, answer))
    distinct = [len({word for sentence in text for word in sentence}) for text in (hypothesis, reference)]
    common: set[str] = set()
    for one in reference:
        for other in hypothesis:
            common |= _walked_back(one, other)
    if not all(distinct):
        return 0.0
    precision, recall = len(common) / distinct[0], len(common) / distinct[1]
    return 2 * precision * recall / (precision + recall + 1e-8)


def _walked_back(first: Sequence[str], second: Sequence[str]) -> set[str]:
    table, i, j, found = lengths(first, second), len(first), len(second), set()
    while i and j:
        if first[i - 1] == second[j - 1]:
            found.add(first[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


def words(text: str) -> list[str]:
    """Lower case, cut as mteval-v13a cuts: at punctuation, but not at points and commas inside of numbers."""
    line = f" {text.lower()} ".replace("-\n", "").replace("\n", " ")
    for name, sign in (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")):
        line = line.replace(name, sign)
    line = re.sub(r"([!-&(-+/:-@\[-`{-~])", r" \1 ", line)
    line = re.sub(r"([^0-9])([.,])", r"\1 \2 ", line)
    line = re.sub(r"([.,])([^0-9])", r" \1 \2", line)
    return re.sub(r"([0-9])(-)", r"\1 \2 ", line).split() or [""]


def sari(source: Sequence[str], answer: Sequence[str], rights: Sequence[Sequence[str]]) -> float:
    """SARI of one row, 0..100; n-grams of source and answer count once per reference, which can then be pooled."""
    total = Fraction(0)
    for order in (1, 2, 3, 4):
        in_source, in_answer = _grams(source, order), _grams(answer, order)
        in_rights = sum((_grams(right, order) for right in rights), Counter())
        n = len(rights)
        grams = {*in_source, *in_answer, *in_rights}
        every = {gram: (n * in_source[gram], n * in_answer[gram], in_rights[gram]) for gram in grams}
        kept = {g: min(s, a) for g, (s, a, _) in every.items() if min(s, a)}
        good = {g: min(kept[g], every[g][2]) for g in kept}
        wanted = sum(min(s, r) for s, _, r in every.values())
        total += _f1(
            _ratio(sum((Fraction(good[g], kept[g]) for g in kept), Fraction(0)), len(kept)),
            _ratio(sum(good.values()), wanted),
        )

        gone = {g: s - a for g, (s, a, _) in every.items() if s > a}
        shares = [Fraction(max(0, gone[g] - every[g][2]), gone[g]) for g in gone]
        total += _ratio(sum(shares, Fraction(0)), len(gone))

        added = {g for g, (s, a, _) in every.items() if a and not s}
        to_add = {g for g, (s, _, r) in every.items() if r and not s}
        total += _f1(_ratio(len(added & to_add), len(added)), _ratio(len(added & to_add), len(to_add)))
    return float(100 * total / 12)


def _grams(text: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(text[i : i + order]) for i in range(len(text) - order + 1))


def _ratio(part: Fraction | int, whole: int) -> Fraction:
    return Fraction(part) / whole if whole else Fraction(1)


def _f1(precision: Fraction, recall: Fraction) -> Fraction:
    return 2 * precision * recall / (precision + recall) if precision + recall else Fraction(0)


ENGLISH = str.split(
    "the a council vote on of bridge water to motion was moved street and approved budget for year park"
)
GERMAN = str.split(
    "der die das und Haus alte Brücke kleine fährt schließt für Zürich am Montag 1,5 3000 Personen nicht"
)
CODE = [
    "<NUM_LIT:7>",
    "<NUM_LIT>",
    "<STR_LIT:key>",
    "<STR_LIT>",
    *str.split("self . append ( ) [ ] = x value index return"),
]


def rows_of(task: str, *, reasoning: bool) -> dict[str, list[str]]:
    """Prompts, references and answers between right, nearly right, wrong and empty, made from a seed."""
    stream = np.random.RandomState(TASKS.index(task) + 100 * reasoning)
    rows: dict[str, list[str]] = {"prompts": [], "predictions": [], "references": []}
    for row in range(ROWS):
        source = _text(stream, {"Py150": CODE, "20Minuten": GERMAN}.get(task, ENGLISH))
        right = _reference(stream, task, source)
        answer = "" if row == 5 else _changed(stream, task, right)
        rows["prompts"].append(source)
        rows["references"].append(right)
        rows["predictions"].append(_reasoned(stream, task, answer) if reasoning and row % 6 else answer)
    return rows


def _text(stream: np.random.RandomState, vocabulary: Sequence[str]) -> str:
    sentences = [" ".join(stream.choice(vocabulary, stream.randint(3, 12))) for _ in range(stream.randint(1, 4))]
    return " ".join(sentences) if vocabulary is CODE else ". ".join(sentences) + "."


def _reference(stream: np.random.RandomState, task: str, source: str) -> str:
    if task in LETTERS:
        return str(stream.choice(list("ABC"))) + ("\nIt grows in light." if task == "ScienceQA" else "")
    if task.startswith("NumGLUE"):
        return str(stream.choice(["12", "0.5", "7", "-3", "1,000"]))
    return (_dropped(stream, source, 0.3) or source) + "\n" * stream.randint(2)


def _dropped(stream: np.random.RandomState, text: str, share: float) -> str:
    return " ".join(word for word in text.split(" ") if stream.rand() > share)


def _changed(stream: np.random.RandomState, task: str, right: str) -> str:
    kind = stream.randint(5)
    if task in LETTERS:
        return (f" {right}\n", f"{right} {right}", f"Option {right}", str(stream.choice(list("ABCb"))), right)[kind]
    if task.startswith("NumGLUE"):
        return (f" {right}\n", f"{right}.", f"{right}.0", str(stream.randint(9)), right)[kind]
    vocabulary = {"Py150": CODE, "20Minuten": GERMAN}.get(task, ENGLISH)
    mixed = [str(stream.choice(vocabulary)) if stream.rand() < 0.2 else word for word in right.split(" ")]
    return (_dropped(stream, right, 0.4), " ".join(mixed), right, f"{right} {right}", _text(stream, vocabulary))[kind]


def _reasoned(stream: np.random.RandomState, task: str, answer: str) -> str:
    if task == "Py150":
        return f"{answer}\nReasoning: the list grows.\nAnswer: x"
    marks = ["\nAnswer: ", "\nAnswer：", "\n答案：", "\n回答:", "\nAnswer:"]
    return f"First we look.{stream.choice(marks)}{answer}" + ("\nAnswer: again" if stream.rand() < 0.2 else "")


def main() -> None:
    found = {}
    for version in ("plain", "reasoning"):
        for task in TASKS:
            rows = rows_of(task, reasoning=version == "reasoning")
            found[f"{version}-{task}"] = {**rows, "numbers": numbers(task, **rows)}
    PATH.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
