import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_runs import write_run

from seekr.errors import InputError
from seekr.runs.run import Run, find_runs


def test_stages_are_read_as_they_were_written(tmp_path: Path) -> None:
    run = Run(write_run(tmp_path / "run", skill="chat", layers=3, heads=5))
    assert [stage.name for stage in run.stages] == ["chat", "copy", "sort", "add"]
    skill, first = run.stages[:2]
    assert not skill.trained
    assert sorted(skill.importance) == ["importance", "sensitivity"]
    assert first.trained
    assert sorted(first.importance) == ["change", "importance", "sensitivity"]
    assert first.importance["change"].shape == (3, 5)
    np.testing.assert_array_equal(
        first.importance["importance"], first.importance["sensitivity"] * first.importance["change"]
    )
    replay = next(entry for entry in run.stages[2].log if entry.kind == "replay")
    assert list(replay.parts) == ["replay", "logit", "attention"]
    assert run.steps == {"task": 96, "replay": 24}


def test_runs_are_found_below_a_folder_once_and_in_order(tmp_path: Path) -> None:
    for name in ("seekr/seed-1", "seekr/seed-0", "derpp"):
        write_run(tmp_path / name)
    everything = [tmp_path / "seekr" / "seed-0", tmp_path / "seekr" / "seed-1"]
    assert find_runs([tmp_path / "seekr", tmp_path / "seekr" / "seed-1"]) == everything
    assert find_runs([tmp_path / "derpp", tmp_path / "seekr"]) == [tmp_path / "derpp", *everything]
    assert find_runs([tmp_path]) == [tmp_path / "derpp", *everything]


def read_whole_run(run: Run) -> None:
    """Asks for everything that there is of a run."""
    assert run.record
    assert run.scored
    for stage in run.stages:
        assert stage.importance
        assert stage.heads
        assert stage.log


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", '{"a": 1,\n', r"run\.json, line 2: broken JSON"),
        ("run.json", "{}", r"run\.json: not the record of a run"),
        ("scores.json", '{"tasks": [', r"scores\.json, line 1: broken JSON .*seekr evaluate"),
        (
            "scores.json",
            '{"tasks": ["a"], "metrics": ["m"], "base": [null], "matrix": [[1, 2]]}',
            "do not fit the 1 tasks",
        ),
        (
            "scores.json",
            '{"tasks": ["a"], "metrics": ["m"], "base": [0], "matrix": [["x"]]}',
            "neither a number nor null",
        ),
        ("stages/00-copy/importance.safetensors", "torn", r"importance\.safetensors: cannot be read"),
        ("stages/00-copy/heads.json", "[1]", r"heads\.json: not \{layer: \[heads\]\}"),
        ("stages/00-copy/log.jsonl", '{"step": 1, "kind": "task"}\n{"st', r"log\.jsonl, line 2: broken JSON"),
        ("stages/00-copy/log.jsonl", "[]", r"log\.jsonl, line 1: not a JSON object"),
    ],
)
def test_torn_files_are_named_with_the_mend(tmp_path: Path, name: str, content: str, message: str) -> None:
    run = write_run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_whole_run(Run(run))
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)


def test_torn_predictions_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "predictions" / "2-0.jsonl").write_text('{"prompt": "x"}\n')
    with pytest.raises(InputError, match=r"2-0\.jsonl, line 1: no prompt, prediction and reference"):
        Run(run).answers(2, 0)


def test_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run\.json there or below"):
        find_runs([tmp_path])


def test_a_run_that_is_held_shows_what_was_scored_and_learned_since(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    run = Run(folder)
    before, stages = run.scores.overall_performance, run.stages
    scores = json.loads((folder / "scores.json").read_text())
    scores["matrix"][-1] = [1.0, 2.0, 3.0]
    (folder / "scores.json").write_text(json.dumps(scores))
    assert run.scores.overall_performance == 2.0 != before
    shutil.copytree(stages[-1].folder, folder / "stages" / "03-more")
    assert [stage.name for stage in run.stages] == ["copy", "sort", "add", "more"]
    assert run.stages[:3] == stages
    assert all(old is new for old, new in zip(stages, run.stages, strict=False))  # nothing is read twice
