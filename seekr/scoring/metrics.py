"""How right the answers of one task are, 0 to 100: the metrics that a task can name, and those of no benchmark.

Where a row has several references, the best one counts (SARI: all together).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

from rapidfuzz import fuzz

from seekr.errors import InputError, imported, nearest
from seekr.scoring.extra import check_packages
from seekr.scoring.likelihood import LIKELIHOOD
from seekr.scoring.rows import Metric, check_rows, mean_over_rows
from seekr.scoring.sari import sari
from seekr.scoring.superni import superni_accuracy, superni_rouge_l
from seekr.scoring.trace import TRACE_METRICS

_WORD = re.compile(r"[a-z0-9]+")
# Scripts that are written without spaces between words: Thai to Lao, Myanmar, Khmer, kana, Han with its
# extensions.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


@mean_over_rows
def accuracy(prediction: str, right: str) -> float:
    """Share of answers that equal a reference, white space at both ends aside."""
    return 100.0 * (prediction.strip() == right.strip())


@mean_over_rows
def rouge_l(prediction: str, right: str) -> float:
    """ROUGE-L, the F-measure of the longest common subsequence of words (Lin 2004), by rouge_score without
    its stemmer.

    Words are lower-cased. On ASCII text they are those of rouge_score, which knows no others and would drop
    every Chinese answer; here a word is a run of letters, digits and combining marks of any script, and in
    scripts without spaces between words each character is one. A text without any word scores 0.
    """
    return 100.0 * _rouge_scorer().score(right, prediction)["rougeL"].fmeasure


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk, which takes its time

    return RougeScorer(["rougeL"], use_stemmer=False, tokenizer=_Words())


@mean_over_rows
def edit_similarity(prediction: str, right: str) -> float:
    """1 - (insertions + deletions) / (both lengths), by characters, white space at both ends aside.

    The `fuzz.ratio` of code completion benchmarks (CodeXGLUE), here not rounded. Two empty texts are equal: 100.
    """
    return fuzz.ratio(prediction.strip(), right.strip())


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "rouge_l": rouge_l,
    "edit_similarity": edit_similarity,
    "sari": sari,
    "superni_accuracy": superni_accuracy,
    "superni_rouge_l": superni_rouge_l,
    **TRACE_METRICS,
}


def find_metric(name: Any) -> Metric:
    """The metric of a name, or the function that `module:function` imports. Raises InputError.

    A function of the user's is given texts as seekr's own are, and has to return a number from 0 to 100.
    """
    if isinstance(name, str) and name in METRICS:
        check_packages(name)
        return METRICS[name]
    module, colon, function = str(name).partition(":")
    if not (isinstance(name, str) and colon and module and function):
        raise InputError(f"unknown metric {name!r}; {nearest(str(name), (*METRICS, LIKELIHOOD))}")
    form = "module:function, of a module that is installed or on PYTHONPATH"
    found = imported(module, function, what=f"metric {name!r}", form=form)
    if not callable(found):
        raise InputError(f"metric {name!r} is no function of (predictions, references, prompts)")

    def checked(
        predictions: Sequence[str], references: Sequence[Sequence[str]], prompts: Sequence[str] | None = None
    ) -> float:
        try:
            score = found(predictions, references, prompts)
        except Exception as error:  # whatever a function of the user's raises
            raise InputError(f"metric {name!r} failed ({type(error).__name__}: {error}); mend it") from error
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 100:
            raise InputError(f"metric {name!r} gave {score!r}, and a score is a number from 0 to 100")
        return float(score)

    return checked


def try_metric(name: str, references: Sequence[Sequence[str]], prompts: Sequence[str]) -> None:
    """Has a function of the user's score the right answers, before anything is trained. Raises InputError."""
    if name not in METRICS and references:
        find_metric(name)([rights[0] for rights in references], references, prompts)


def row_scores(
    metric: str, predictions: Sequence[str], references: Sequence[Sequence[str]], prompts: Sequence[str] | None = None
) -> list[float]:
    """What each row scores by itself, 0..100; their mean is the metric. Raises InputError as the metric does, and for
    an unknown one."""
    if metric == LIKELIHOOD:
        raise InputError("row_scores: likelihood is how likely a model finds right answers; a prediction has none")
    scorer = find_metric(metric)
    check_rows(predictions, references, prompts)
    sources = [None] * len(predictions) if prompts is None else [[prompt] for prompt in prompts]
    rows = zip(predictions, references, sources, strict=True)
    return [scorer([prediction], [rights], source) for prediction, rights, source in rows]


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
