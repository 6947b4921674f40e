"""The two numbers of Super-NaturalInstructions' released evaluation (Wang et al. 2022, arXiv 2204.07705).

As in eval/automatic/evaluation.py of allenai/natural-instructions for its English track: the best of a row's
references counts, then the mean over the rows. Its cross-lingual track cuts words by GPT-2's tokenizer instead,
which is not on this way: for answers in other scripts than Latin use `rouge_l`, which knows their words.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

from seekr.scoring.rows import mean_of_best

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def superni_rouge_l(
    predictions: Sequence[str], references: Sequence[Sequence[str]], prompts: Sequence[str] | None = None
) -> float:
    """ROUGE-L F-measure by rouge_score with its own words (a-z and 0-9 alone) and Porter's stemmer."""
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk, which takes its time

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return mean_of_best(
        lambda prediction, right: 100.0 * scorer.score(right, prediction)["rougeL"].fmeasure,
        predictions,
        references,
        prompts,
    )


def superni_accuracy(
    predictions: Sequence[str], references: Sequence[Sequence[str]], prompts: Sequence[str] | None = None
) -> float:
    """Exact match of what is left without case, ASCII punctuation and extra white space (articles stay)."""
    return mean_of_best(
        lambda prediction, right: 100.0 * (_normalized(prediction) == _normalized(right)),
        predictions,
        references,
        prompts,
    )


def _normalized(text: str) -> str:
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())
