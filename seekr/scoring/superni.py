"""The two numbers of Super-NaturalInstructions' released evaluation (Wang et al. 2022, arXiv 2204.07705).

As in eval/automatic/evaluation.py of allenai/natural-instructions for its English track: the best of a row's
references counts, then the mean over the rows. Its cross-lingual track cuts words by GPT-2's tokenizer instead,
which is not on this way: for answers in other scripts than Latin use `rouge_l`, which knows their words.
"""

from __future__ import annotations

import string
from functools import cache
from typing import Any

from seekr.scoring.rows import mean_over_rows

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@mean_over_rows
def superni_rouge_l(prediction: str, right: str) -> float:
    """ROUGE-L F-measure by rouge_score with its own words (a-z and 0-9 alone) and Porter's stemmer."""
    return 100.0 * _rouge_scorer().score(right, prediction)["rougeL"].fmeasure


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk, which takes its time

    return RougeScorer(["rougeL"], use_stemmer=True)


@mean_over_rows
def superni_accuracy(prediction: str, right: str) -> float:
    """Exact match of what is left without case, ASCII punctuation and extra white space (articles stay)."""
    return 100.0 * (_normalized(prediction) == _normalized(right))


def _normalized(text: str) -> str:
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())
