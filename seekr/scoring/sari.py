"""SARI: how well a simplification keeps, deletes and adds words, against its source and its references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from seekr.errors import InputError
from seekr.scoring.extra import extra_module
from seekr.scoring.rows import check_rows

_ORDERS = (1, 2, 3, 4)


def sari(
    predictions: Sequence[str], references: Sequence[Sequence[str]], prompts: Sequence[str] | None = None
) -> float:
    """Mean over the rows of SARI, 0..100 (Xu et al. 2016, doi 10.1162/tacl_a_00107); the prompts are the sources.

    Of n-grams, n = 1..4, the mean of F1 of those kept, precision of those deleted and F1 of those added. Two
    details are those of the `sari` of Hugging Face `evaluate`, whose number TRACE publishes, and not of the
    paper's own script: 0/0 counts as 1, and the recall of kept n-grams is taken over occurrences. That script is
    loaded from a hub, and no package on the index holds it, so the formula stands here; texts are lower-cased and
    cut into words by sacrebleu's 13a as there. A text without words is one empty word. All references of a row
    count together: an n-gram weighs what share of them holds it.

    Raises:
        InputError: without prompts, or if there are not as many of each.
    """
    if prompts is None:
        raise InputError("sari: compares answers with their sources too, so prompts are needed; give one for each")
    check_rows(predictions, references, prompts)
    words = _tokenizer()
    rows = zip(prompts, predictions, references, strict=True)
    scores = [_row(words(source), words(answer), [words(right) for right in rights]) for source, answer, rights in rows]
    return 100.0 * (sum(scores) / len(scores))


def _tokenizer() -> Callable[[str], list[str]]:
    tokenizer = extra_module("sacrebleu.tokenizers.tokenizer_13a").Tokenizer13a()
    return lambda text: tokenizer(text.lower()).split(" ")


def _row(source: list[str], answer: list[str], rights: list[list[str]]) -> float:
    parts = [
        part
        for order in _ORDERS
        for part in _keep_delete_add(
            _grams(source, order, len(rights)),
            _grams(answer, order, len(rights)),
            sum((_grams(right, order) for right in rights), Counter()),
        )
    ]
    return sum(parts) / len(parts)


def _grams(words: list[str], order: int, weight: int = 1) -> Counter[str]:
    """How often each n-gram occurs, times `weight`."""
    grams = Counter(" ".join(words[start : start + order]) for start in range(len(words) - order + 1))
    return Counter({gram: count * weight for gram, count in grams.items()})


def _keep_delete_add(source: Counter[str], answer: Counter[str], right: Counter[str]) -> tuple[float, float, float]:
    kept, to_keep = source & answer, source & right
    well_kept = kept & right
    keep = _f1(_shares(well_kept, kept), _ratio(well_kept.total(), to_keep.total()))

    deleted = source - answer
    delete = _shares(deleted - right, deleted)

    added, to_add = answer.keys() - source.keys(), right.keys() - source.keys()
    well_added = len(added & to_add)
    add = _f1(_ratio(well_added, len(added)), _ratio(well_added, len(to_add)))
    return keep, delete, add


def _shares(good: Counter[str], done: Counter[str]) -> float:
    """Mean over the n-grams of `done` of the share of their occurrences that is good."""
    return _ratio(sum(count / done[gram] for gram, count in good.items()), len(done))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision or recall else 0.0
