"""What the log of a stage is read as."""

from __future__ import annotations

from pathlib import Path

import pytest

from seekr.errors import InputError
from seekr.runs.log import read_log

STEP = '{"step": 1, "kind": "replay", "loss": 0.7, "replay": 0.7, "gradient_share": %s}\n'


def test_numbers_that_are_not_known_are_none_of_the_log(tmp_path: Path) -> None:
    """A share that is null was drawn, and the page a traceback."""
    log = tmp_path / "log.jsonl"
    log.write_text(STEP % '{"replay": 0.25, "logit": null}')
    (entry,) = read_log(log)
    assert (entry.parts, entry.gradient_share) == ({"replay": 0.7}, {"replay": 0.25})


@pytest.mark.parametrize("shares", ['{"replay": "much"}', "1e999", '{"replay": []}', '["replay"]', "1"])
def test_shares_that_are_no_numbers_are_named_with_their_line(tmp_path: Path, shares: str) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(STEP % "{}" + STEP % shares)
    with pytest.raises(InputError, match=r"log\.jsonl, line 2: not a step of a log"):
        read_log(log)


@pytest.mark.parametrize("number", ["Infinity", "1e999", "1" + "0" * 400])
def test_numbers_without_end_are_named_with_their_line(tmp_path: Path, number: str) -> None:
    """It was an OverflowError of every command that reads a log."""
    log = tmp_path / "log.jsonl"
    log.write_text(f'{{"step": 1, "kind": "task", "replayed_rows": {number}, "kept_rows": 2, "attention_weight": 1}}\n')
    if number.startswith("10"):
        log.write_text(f'{{"step": 1, "kind": "task", "attention_weight": {number}}}\n')
    with pytest.raises(InputError, match=r"log\.jsonl, line 1: not a step of a log"):
        read_log(log)
