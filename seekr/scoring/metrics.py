"""How right the answers of one task are, 0 to 100. Where a row has several references, the best one counts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

Metric = Callable[[Sequence[str], Sequence[Sequence[str]]], float]

_WORD = re.compile(r"[a-z0-9]+")
# Scripts that are written without spaces between words: Thai to Lao, Myanmar, Khmer, kana, Han with its
# extensions.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def accuracy(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share of answers that equal a reference, white space at both ends aside."""
    return _mean(lambda prediction, right: 100.0 * (prediction.strip() == right.strip()), predictions, references)


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """ROUGE-L, the F-measure of the longest common subsequence of words (Lin 2004), by rouge_score without
    its stemmer.

    Words are lower-cased. On ASCII text they are those of rouge_score, which knows no others and would drop
    every Chinese answer; here a word is a run of letters, digits and combining marks of any script, and in
    scripts without spaces between words each character is one. A text without any word scores 0.
    """
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk, which takes its time

    scorer = RougeScorer(["rougeL"], use_stemmer=False, tokenizer=_Words())
    return _mean(
        lambda prediction, right: 100.0 * scorer.score(right, prediction)["rougeL"].fmeasure,
        predictions,
        references,
    )


def edit_similarity(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """1 - (insertions + deletions) / (both lengths), by characters, white space at both ends aside.

    The `fuzz.ratio` of code completion benchmarks (CodeXGLUE), here not rounded. Two empty texts are equal: 100.
    """
    from rapidfuzz import fuzz

    return _mean(lambda prediction, right: fuzz.ratio(prediction.strip(), right.strip()), predictions, references)


METRICS: dict[str, Metric] = {"accuracy": accuracy, "rouge_l": rouge_l, "edit_similarity": edit_similarity}


class _Words:
    """A tokenizer as rouge_score wants it."""

    def tokenize(self, text: str) -> list[str]:
        text = unicodedata.normalize("NFC", text).lower()
        if text.isascii():
            return _WORD.findall(text)
        return "".join(self._spaced(char) for char in text).split()

    @staticmethod
    def _spaced(char: str) -> str:
        if not (char.isalnum() or unicodedata.category(char).startswith("M")):
            return " "
        return f" {char} " if _UNSPACED.match(char) else char


def _mean(score: Callable[[str, str], float], predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    if not predictions or len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions and {len(references)} references: as many, and some, are needed"
        )
    return sum(
        max(score(prediction, right) for right in rights)
        for prediction, rights in zip(predictions, references, strict=True)
    ) / len(predictions)
