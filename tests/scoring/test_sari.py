"""SARI against a published example, one by hand, and its definition written out with fractions."""

import pytest
import trace_definition
from hypothesis import given, settings
from hypothesis import strategies as st

from seekr.errors import InputError
from seekr.scoring.sari import sari

WORDS = st.lists(st.sampled_from(["a", "b", "c", "ä", "好"]), max_size=6).map(" ".join)


def definition(source: str, answer: str, rights: list[str]) -> float:
    return trace_definition.sari(
        source.split() or [""], answer.split() or [""], [text.split() or [""] for text in rights]
    )


def test_the_example_that_evaluate_publishes() -> None:
    """The usage example on the card of Hugging Face's `sari`: 26.953601953601954."""
    references = [
        "About 95 species are currently known .",
        "About 95 species are now accepted .",
        "95 species are now accepted .",
    ]
    score = sari(["About 95 you now get in ."], [references], ["About 95 species are currently accepted ."])
    assert score == pytest.approx(26.953601953601954, rel=0, abs=1e-9)


def test_an_example_by_hand() -> None:
    # source "a b", answer "a c", reference "a d": of 1-grams a is rightly kept (1), b rightly deleted (1), c wrongly
    # added (0). Of 2-grams none is kept and none should be (1), "a b" is rightly deleted (1), "a c" wrongly added (0).
    # Longer ones there are none, which counts as 1. So keep 1, delete 1, add (0 + 0 + 1 + 1) / 4.
    assert sari(["a c"], [["a d"]], ["a b"]) == pytest.approx(100 * (1 + 1 + 0.5) / 3)


@settings(deadline=None)
@given(WORDS, WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_sari_is_its_definition(source: str, answer: str, rights: list[str]) -> None:
    score = sari([answer], [rights], [source])
    assert score == pytest.approx(definition(source, answer, rights), abs=1e-9)
    assert 0 <= score <= 100 + 1e-9
    assert sari([answer], [rights[::-1]], [source]) == pytest.approx(score)


def test_texts_are_lower_cased_and_cut_at_punctuation() -> None:
    assert sari(["Über Ärger, sagt er."], [["über ärger , sagt er ."]], ["Nichts."]) == pytest.approx(100)


def test_an_empty_answer_is_scored() -> None:
    assert sari([""], [["a b"]], ["a b"]) == pytest.approx(definition("a b", "", ["a b"]))
    assert sari(["a"], [[""]], [""]) == pytest.approx(definition("", "a", [""]))


def test_sari_without_its_sources_is_refused() -> None:
    with pytest.raises(InputError, match=r"sari: .*prompts are needed"):
        sari(["a"], [["a"]])
    with pytest.raises(InputError, match="1 predictions, 1 references, 0 prompts"):
        sari(["a"], [["a"]], [])
