"""TRACE's own numbers for its eight tasks, equal to what its released evaluation prints.

TRACE (Wang et al. 2023, arXiv 2310.06762) publishes code for the plain data (BeyonderXX/TRACE: metrics.py and
evaluations/); SEEKR's repository (jinghan1he/SEEKR: re_eval.py, evaluations/ and utils/metrics.py) has the same
numbers after an extraction of the answer that fits both data versions, reasoning and plain. That is what is
computed here. Which number is a task's score, and that the others are times 100, is show_results.py's there, and
agrees with the metrics that TRACE's paper names for its data sets.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Sequence

from seekr.errors import InputError, nearest
from seekr.scoring.extra import extra_module
from seekr.scoring.rows import Metric, check_rows, list_of_rows, mean_over_rows
from seekr.scoring.sari import sari

Score = Callable[[str, str], float]

_ANSWER_MARKS = ("\nAnswer:", "\n回答:", "\n答案:")  # in the order in which they are looked for
_ONE_LETTER = ("C-STANCE", "FOMC", "ScienceQA")  # tasks whose answer is the letter of a choice
_LITERAL = re.compile(r"<(STR|NUM|CHAR)_LIT:(.*?)>", re.DOTALL)


def trace_metrics(
    task: str,
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    prompts: Sequence[str] | None = None,
) -> dict[str, float]:
    """The numbers of one of TRACE's tasks, by the names and in the scales of its released evaluation.

    accuracy, bleu-1, bleu-4 and rouge-L run from 0 to 1, similarity and sari from 0 to 100; each is a mean over the
    rows. Raw generated texts go in: the answer is taken out of a reasoning first, where there is one. Peculiarities of
    the released code are kept, since its numbers are what is compared: an empty prediction becomes one space; only
    predictions are trimmed; of the one-letter tasks the first character is the answer; ScienceQA's BLEU and
    ROUGE-L compare what follows that letter, of which its extraction leaves nothing, so that they are 0.

    Args:
        task: C-STANCE, FOMC, MeetingBank, Py150, ScienceQA, NumGLUE-cm, NumGLUE-ds or 20Minuten.
        predictions: What the model wrote, one text a row.
        references: The right answer of each row; of several in a list the best one counts (SARI: all together).
        prompts: The whole prompts, one a row; only 20Minuten's SARI reads them.

    Raises:
        InputError: for an unknown task, what is no list of texts, unequal or empty lists, or 20Minuten without prompts.
    """
    if not isinstance(task, str) or task not in _NUMBERS:
        raise InputError(f"trace_metrics: unknown task {task!r}; {nearest(str(task), _NUMBERS)}")
    predictions = list_of_rows("predictions", predictions)
    rights = [
        [right] if isinstance(right, str) else list_of_rows(f"references[{index}]", right)
        for index, right in enumerate(list_of_rows("references", references))
    ]
    prompts = None if prompts is None else list_of_rows("prompts", prompts)
    check_rows(predictions, rights, prompts)
    answers = [extract_answer(task, prediction) for prediction in predictions]
    return {name: number(answers, rights, prompts) for name, number in _NUMBERS[task].items()}


def extract_answer(task: str, prediction: str) -> str:
    """The answer in a generated text of a TRACE task.

    It is what stands before a line that begins with "Reasoning:", else after the first one that begins with "Answer:"
    (or the same in Chinese) and before a second, else everything; trimmed, of a letter task the first character, and
    " " where nothing is left. Full-width colons become plain ones, also inside of the answer.
    """
    text = prediction.replace("：", ":")
    if "\nReasoning:" in text:  # Py150 gives the answer first
        text = text.split("\nReasoning:")[0]
    else:
        mark = next((mark for mark in _ANSWER_MARKS if mark in text), None)
        text = text.split(mark)[1] if mark else text
    answer = text.strip() or " "
    return answer[0] if task in _ONE_LETTER else answer


def _number(score: Score, part: Callable[[str], str] = str) -> Metric:
    """A mean over the rows of `score` of a part of both texts; 0 for a row where either is empty."""

    @mean_over_rows
    def number(answer: str, right: str) -> float:
        answer, right = part(answer), part(right)
        return score(answer, right) if answer and right else 0.0

    return number


def _equal(answer: str, right: str) -> float:
    return float(answer == right)


def _bleu(order: int) -> Score:
    """BLEU of one sentence by nltk, unsmoothed, of words between white space and full stops.

    nltk's, because without smoothing a row with no common n-gram gets nearly 0 there, while sacrebleu smooths it.
    """

    def score(answer: str, right: str) -> float:
        sentence_bleu = extra_module("nltk.translate.bleu_score").sentence_bleu
        with warnings.catch_warnings():  # of n-grams that do not occur: they are counted as they are
            warnings.simplefilter("ignore")
            return float(sentence_bleu([_words(right)], _words(answer), (1.0 / order,) * order))

    return score


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"\s|\.", text) if word]


def _rouge_l(answer: str, right: str) -> float:
    """ROUGE-L by the package `rouge` 1.0.1, which alone gives the published number.

    It takes the union of common subsequences over sentences, as sets of distinct words, and cuts sentences at every
    full stop; rouge_score does none of this. As in the released code the reference is given as its hypothesis,
    and a text of full stops alone scores 0.
    """
    rouge = extra_module("rouge").Rouge(metrics=["rouge-l"])
    before = sys.getrecursionlimit()
    # It walks back along both texts by recursion, a call a word, and would end a run at a long answer.
    sys.setrecursionlimit(before + len(answer) + len(right))
    try:
        return float(rouge.get_scores(right, answer, avg=True)["rouge-l"]["f"])
    except ValueError:
        return 0.0
    finally:
        sys.setrecursionlimit(before)


def _similarity(answer: str, right: str) -> float:
    """fuzzywuzzy's `ratio`, 0..100 and rounded, as it is with python-Levenshtein installed; the published numbers come
    from there, and rapidfuzz is that computation (without it fuzzywuzzy falls back to difflib, which gives others)."""
    from rapidfuzz.distance import Indel

    return round(100 * Indel.normalized_similarity(answer, right))


def _code(text: str) -> str:
    """Py150 with its placeholders of literals filled in."""
    text = text.replace("<NUM_LIT>", "0").replace("<STR_LIT>", "").replace("<CHAR_LIT>", "")
    for kind, content in _LITERAL.findall(text):
        text = text.replace(f"<{kind}_LIT:{content}>", content)
    return text


def _letter(text: str) -> str:
    return text[0] if text else " "


def _explanation(text: str) -> str:
    """What follows the letter of a ScienceQA answer and the line break after it."""
    return text[2:] if text else " "


_ACCURACY = {"accuracy": _number(_equal)}
_SUMMARY = {"bleu-1": _number(_bleu(1)), "bleu-4": _number(_bleu(4)), "rouge-L": _number(_rouge_l)}
_NUMBERS: dict[str, dict[str, Metric]] = {
    "C-STANCE": _ACCURACY,
    "FOMC": _ACCURACY,
    "MeetingBank": _SUMMARY,
    "Py150": {"similarity": _number(_similarity, _code)},
    "ScienceQA": {
        "bleu-1": _number(_bleu(1), _explanation),
        "bleu-4": _number(_bleu(4), _explanation),
        "rouge-L": _number(_rouge_l, _explanation),
        "accuracy": _number(_equal, _letter),
    },
    "NumGLUE-cm": _ACCURACY,
    "NumGLUE-ds": _ACCURACY,
    "20Minuten": {**_SUMMARY, "sari": sari},
}

_HEADLINES = {"MeetingBank": ("rouge-L", 100.0), "Py150": ("similarity", 1.0), "20Minuten": ("sari", 1.0)}
"""The number by which a task is compared, where that is not accuracy, and its factor to 0..100."""


def _headline(task: str) -> Metric:
    name, factor = _HEADLINES.get(task, ("accuracy", 100.0))

    def metric(
        predictions: Sequence[str], references: Sequence[Sequence[str]], prompts: Sequence[str] | None = None
    ) -> float:
        check_rows(predictions, references, prompts)
        answers = [extract_answer(task, prediction) for prediction in predictions]
        return factor * _NUMBERS[task][name](answers, references, prompts)

    return metric


TRACE_METRICS: dict[str, Metric] = {f"trace_{task.lower().replace('-', '_')}": _headline(task) for task in _NUMBERS}
"""The number by which TRACE compares methods on each task, times its factor to 0..100."""
