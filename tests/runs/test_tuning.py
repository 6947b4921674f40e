"""Choosing settings: the grid, the rows that candidates are scored on, and the runs; test is left alone."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from small_runs import digests

from seekr import Run, Task
from seekr.cli.main import main
from seekr.config.schema import apply_override, load_config
from seekr.errors import InputError
from seekr.report.comparison import ComparisonRow
from seekr.tuning.grid import folder_name, parse_grid, points, text_of
from seekr.tuning.rows import hold_out, take_eval, tuning_rows
from seekr.tuning.table import how_sure, ranked

pytestmark = pytest.mark.thorough

GRID = "training.learning_rate=[0.01,0.001]"


def rows(*prompts: str) -> list[dict[str, str]]:
    return [{"prompt": prompt, "answer": f"{number}"} for number, prompt in enumerate(prompts)]


# The grid


def test_every_combination_once_the_last_key_fastest() -> None:
    grid, fixed = parse_grid(["a.b=[1,2]", "seed=4", "seeds=[0,1]", "method.x=[[p,q],[p]]", "cells=all"])
    assert fixed == ["seed=4", "seeds=[0,1]", "cells=all"]
    assert list(points(grid)) == [
        {"a.b": 1, "method.x": ["p", "q"]},
        {"a.b": 1, "method.x": ["p"]},
        {"a.b": 2, "method.x": ["p", "q"]},
        {"a.b": 2, "method.x": ["p"]},
    ]


def test_keys_of_a_preset() -> None:
    """`tasks.only` is a list for all candidates; what a preset's tasks share can be tried as what one task has."""
    grid, fixed = parse_grid(["tasks.only=[a,b]", "tasks.train_limit=[8,16]", "tasks.1.num_train_epochs=[1,2]"])
    assert fixed == ["tasks.only=[a,b]"]
    assert grid == {"tasks.train_limit": [8, 16], "tasks.1.num_train_epochs": [1, 2]}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give at least one key a list"),
        (["training.learning_rate=1e-3"], "give at least one key a list"),
        (["x=[]"], "the list of values is empty"),
        (["x=[1,2,1]"], "a value comes twice"),
        (["x=[1]", "x=[2]"], "x is given twice"),
        (["seed=[0,1]"], r"seed is no setting to choose: seeds=\[0,1,2\] learns"),
        (["output_dir=[a,b]"], "output_dir is no setting"),
        (["tasks=[a]"], "tasks is no setting"),
        (["tasks.0.test=[a,b]"], "tasks.0.test is no setting"),
        (["tasks.0.metric=[a,b]"], "tasks.0.metric is no setting"),
        (["tasks.preset=[a,b]"], "tasks.preset is no setting"),
        (["x=[1"], "not valid YAML"),
    ],
)
def test_grids_that_mean_nothing(words: Sequence[str], told: str) -> None:
    with pytest.raises(InputError, match=told) as error:
        parse_grid(words)
    assert "\n" not in str(error.value)


printable = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")))  # what YAML takes as it is
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | printable,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(values)
def test_a_value_comes_back_from_its_word(value: Any) -> None:
    raw: dict[str, Any] = {"training": {}}
    apply_override(raw, f"training.x={text_of(value)}")
    assert raw["training"]["x"] == value
    assert type(raw["training"]["x"]) is type(value)


@given(st.lists(values, min_size=2, max_size=5, unique_by=repr))
def test_candidates_have_folders_of_their_own(several: list[Any]) -> None:
    names = [folder_name({"method.x": value, "training.x": 1}) for value in several]
    assert len({name.casefold() for name in names}) == len({repr(value).casefold() for value in several})
    assert all(re.fullmatch(r"[\w.+=,~-]{1,200}", name) and name[0] not in ".-" for name in names)


def test_names_of_candidates_read_as_their_settings() -> None:
    settings = {"method.attention_weight": 10, "training.learning_rate": 1e-5, "method.name": "seekr"}
    assert folder_name(settings) == "attention_weight=10,learning_rate=1e-05,name=seekr"
    assert folder_name({"method.x": 1, "lora.x": 2}) == "method.x=1,lora.x=2"
    assert folder_name({"x": -5}) == "x=-5"


# The rows


@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=30),
    st.sets(st.sampled_from("ab")),
    st.one_of(st.integers(1, 6), st.floats(0.05, 0.9)),
)
def test_held_out_rows_leave_train_with_all_of_their_prompt(prompts: list[str], tested: set[str], amount: Any) -> None:
    train = rows(*prompts)
    task = Task("x", train=train, test=rows(*tested) or None, eval=rows("zz"))
    free = set(prompts) - tested
    try:
        held = hold_out(task, amount)
    except InputError:
        count = amount if isinstance(amount, int) else max(1, round(amount * len(free)))
        assert count > len(free) or count >= len(set(prompts))
        return
    assert held.scored is not None
    assert held.train is not None
    scored = [row["prompt"] for row in held.scored]
    assert len(scored) == len(set(scored)) == (amount if isinstance(amount, int) else max(1, round(amount * len(free))))
    assert not set(scored) & tested
    assert held.train == [row for row in train if row["prompt"] not in scored]
    assert held.train
    assert all(row in train for row in held.scored)
    assert hold_out(task, amount) == held
    made = held.task(task)
    assert (made.train, made.test, made.eval) == (held.train, held.scored, None)


def test_other_tasks_hold_out_other_rows() -> None:
    prompts = [str(number) for number in range(200)]
    one, two = (hold_out(Task(name, train=rows(*prompts), test=rows("t")), 0.25).scored for name in ("one", "two"))
    assert one != two


def test_eval_rows_that_stand_in_test_are_left_out_and_refused_where_they_are_half() -> None:
    task = Task("x", train=rows("t"), test=rows("a", "b"), eval=rows(" a", "c", "d"))
    found = take_eval(task)
    assert [row["prompt"] for row in found.scored or []] == ["c", "d"]
    assert found.left_out == 1
    tasks = [
        Task("fine", train=rows("t"), test=rows("a"), eval=rows("b")),
        Task("same", train=rows("t", "u", "v"), test=rows("a", "b"), eval=rows("b", "a")),
        Task("half", train=rows("t", "u", "v"), test=rows("a", "b"), eval=rows("b", "c")),
        Task("never-scored", train=rows("t")),
    ]
    with pytest.raises(
        InputError, match=r"eval rows are test rows, half of them or more: same, half; .*--holdout 0\.1"
    ):
        tuning_rows(tasks)
    held = tuning_rows(tasks[1:], 1)
    assert held["never-scored"].scored is None
    assert held["never-scored"].task(tasks[3]).train == tasks[3].train


def test_tasks_without_eval_rows_are_named() -> None:
    tasks = [Task(name, train=rows("t", "u"), test=rows("a")) for name in ("one", "two")]
    with pytest.raises(InputError, match=r"no eval split: one, two; settings are never chosen on test: .*--holdout"):
        tuning_rows(tasks)
    with pytest.raises(InputError, match="task 'one': --holdout 2 leaves nothing to train on"):
        tuning_rows(tasks, 2)
    with pytest.raises(InputError, match="none has eval rows"):
        tuning_rows([Task("x", train=rows("t"))], 1)


def test_the_released_trace_needs_a_holdout(shared: Path) -> None:
    """The reasoning version, whose eval is its test for seven of eight tasks."""
    folder = shared / "data" / "trace_reasoning"
    tasks = [
        Task(path.name, **{split: path / f"{split}.json" for split in ("train", "test", "eval")})
        for path in sorted(folder.iterdir())
    ]
    with pytest.raises(InputError) as error:
        tuning_rows(tasks)
    told = str(error.value).partition("more: ")[2].partition(";")[0].split(", ")
    assert told == sorted({task.name for task in tasks} - {"C-STANCE"})
    for name, found in tuning_rows(tasks, 40).items():
        test = {row["prompt"] for row in json.loads((folder / name / "test.json").read_text())}
        scored = {row["prompt"] for row in found.scored or []}
        assert len(scored) == 40
        assert not scored & test
        assert not scored & {row["prompt"] for row in found.train or []}


# The runs


@pytest.fixture
def tune(
    tmp_path: Path, config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `seekr tune` on the small configuration with an eval split of its own; returns status, stdout, stderr."""
    (tmp_path / "data").unlink()
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        for split, first, count in (("train", 0, 16), ("eval", 100, 4), ("test", 200, 5)):
            made = [{"prompt": f"{name} {first + i}=", "answer": f"{name}{i % 3}"} for i in range(count)]
            (tmp_path / "data" / name / f"{split}.json").write_text(json.dumps(made))
    for task in config["tasks"]:
        task |= {"eval": f"data/{task['name']}/eval.json", "metric": "edit_similarity"}
    config |= {"method": "sequential"}

    def run(*words: str) -> tuple[int, str, str]:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        capsys.readouterr()
        status = main(["tune", str(tmp_path / "config.yaml"), *words])
        return status, *capsys.readouterr()

    return run


def test_candidates_are_learned_scored_on_eval_and_ranked(tune: Any, config: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x-tune"
    status, out, _ = tune("--dry-run", GRID)
    assert status == 0
    assert out.startswith(f"candidates  2, runs 2, in {folder}\nscored on   the eval split, never on test\n")
    assert not (tmp_path / "runs").exists()

    status, out, err = tune(GRID, "training.num_train_epochs=2", "seeds=[0,1]")
    assert status == 0
    assert "candidates  2, runs 4" in out
    assert "candidate 2 of 2: learning_rate=0.001" in err
    table = json.loads((folder / "table.json").read_text())
    assert table["split"] == "eval"
    overall = [row["overall_performance"] for row in table["rows"]]
    assert overall == sorted(overall, reverse=True)
    for row in table["rows"]:
        runs = [Run(folder / row["folder"] / f"seed-{seed}") for seed in (0, 1)]
        scores = [run.scores.overall_performance for run in runs]
        assert row["overall_performance"] == pytest.approx(sum(scores) / 2)
        assert row["overall_performance_sd"] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
        for run in runs:
            assert run.config.training["learning_rate"] == row["settings"]["training.learning_rate"]
            assert [task["test"] for task in run.config.tasks] == [str(folder / "data" / n / "eval.json") for n in "ab"]
            answers = [json.loads(line) for line in (run.folder / "predictions" / "1-0.jsonl").read_text().splitlines()]
            assert [answer["prompt"] for answer in answers] == [f"a {100 + i}=" for i in range(4)]
            assert run.stages[0].model is None  # weights of the newest stage only
    best = shlex.split(re.findall(r"^best on the eval split: (.*)$", out, flags=re.MULTILINE)[0])
    chosen = load_config(tmp_path / "config.yaml", best)
    assert chosen.training == {
        **config["training"],
        "num_train_epochs": 2,
        **{"learning_rate": table["rows"][0]["settings"]["training.learning_rate"]},
    }
    assert main(["evaluate", str(folder / table["rows"][0]["folder"])]) == 0

    before = digests(folder, "**/*")
    again = tune(GRID, "training.num_train_epochs=2", "seeds=[0,1]")
    assert again[:2] == (0, out)
    assert digests(folder, "**/*") == before
    status, _, err = tune(GRID, "seeds=[0,1]")
    assert (status, err.count("\n")) == (2, 1)
    assert "training.learning_rate=0.01: " in err
    assert "training.num_train_epochs is 2.0 there" in err
    assert digests(folder, "**/*") == before


def test_test_rows_change_nothing(tune: Any, tmp_path: Path) -> None:
    """Candidates are the same, weights, answers and table, whatever stands in the test files."""
    assert tune(GRID)[0] == 0
    folder = tmp_path / "runs" / "x-tune"
    first = digests(folder, "**/*.safetensors") | digests(folder, "**/*.jsonl") | digests(folder, "table.json")
    shutil.rmtree(folder)
    for name in "ab":
        poison = [{"prompt": f"poison {i}", "answer": "x" * i} for i in range(9)]
        (tmp_path / "data" / name / "test.json").write_text(json.dumps(poison))
    assert tune(GRID)[0] == 0
    second = digests(folder, "**/*.safetensors") | digests(folder, "**/*.jsonl") | digests(folder, "table.json")
    assert first == second
    assert not any("poison" in path.read_text() for path in folder.rglob("*.json*"))


def test_a_candidate_that_fails_is_last_and_named(tune: Any, tmp_path: Path) -> None:
    status, out, _ = tune("training.learning_rate=[1e30,0.01]")
    assert status == 0
    table = json.loads((tmp_path / "runs" / "x-tune" / "table.json").read_text())
    assert [row["settings"]["training.learning_rate"] for row in table["rows"]] == [0.01, 1e30]
    assert "not finite" in table["rows"][1]["failed"]
    assert "2 failed: seed 0: task 'a'" in out
    assert "best on the eval split: training.learning_rate=0.01\n" in out
    status, _, err = tune("training.learning_rate=[1e30,1e29]")
    assert (status, "no candidate could be learned" in err) == (1, True)


def test_a_holdout_is_taken_from_train_and_from_there_only(tune: Any, config: dict[str, Any], tmp_path: Path) -> None:
    for task in config["tasks"]:
        del task["eval"]
    before = digests(tmp_path / "data", "**/*")
    status, _, err = tune(GRID)
    assert (status, "no eval split: a, b" in err, err.count("\n")) == (2, True, 1)
    assert not (tmp_path / "runs").exists()
    status, out, _ = tune("training.learning_rate=[0.01]", "--holdout", "5", "--output-dir", str(tmp_path / "tuned"))
    assert status == 0
    assert "scored on   rows held out of train (--holdout 5), never on test" in out
    assert digests(tmp_path / "data", "**/*") == before
    run = Run(tmp_path / "tuned" / "learning_rate=0.01")
    for stage, name in zip(run.stages, "ab", strict=True):
        kept, scored = (
            json.loads((tmp_path / "tuned" / "data" / name / f"{split}.json").read_text())
            for split in ("train", "eval")
        )
        every = json.loads((tmp_path / "data" / name / "train.json").read_text())
        assert (len(kept), len(scored)) == (11, 5)
        assert sorted(kept + scored, key=every.index) == every
        assert json.loads((stage.folder / "stage.json").read_text())["identity"]["tasks"][name]["rows"] == 11
    status, _, err = tune("training.learning_rate=[0.02]", "--holdout", "0.5", "--output-dir", str(tmp_path / "tuned"))
    assert (status, err.count("\n")) == (2, 1)
    assert "the tuning there was on other rows" in err


def test_folders_that_candidates_do_not_go_into(tune: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for folder, told in (("mine", "holds files, but no candidates"), ("runs/x", "is where the run itself goes")):
        status, _, err = tune(GRID, "--output-dir", str(tmp_path / folder))
        assert (status, told in err) == (2, True)
    status, _, err = tune(GRID, "method.replay_ratio=[0.1]")
    assert (status, "method.replay_ratio" in err, err.count("\n")) == (2, True, 1)
    assert not (tmp_path / "runs").exists()


# What the lead is worth


def test_the_lead_is_weighed_against_the_spread() -> None:
    def row(*values: float) -> ComparisonRow:
        return ComparisonRow("x", "seekr", tuple(_Scored(value, seed) for seed, value in enumerate(values)))  # type: ignore[misc]

    assert "the two may be equal" in how_sure(row(50, 60), row(49, 59))
    assert how_sure(row(50, 51), row(10, 11)) == "the first leads by 40.0 ± 3.0 over the seeds"
    assert how_sure(row(50), row(10)).startswith("the first leads by 40.0, on one seed")
    assert how_sure(row(50, 60), row(10)).startswith("the first leads by 45.0, on one seed")
    order = ranked([({"x": 1}, "failed"), ({"x": 2}, row(1, 2)), ({"x": 3}, row(5, 6))])
    assert [settings["x"] for settings, _ in order] == [3, 2, 1]


class _Scored(Run):
    seed = property(lambda self: self._seed)  # type: ignore[assignment]

    def __init__(self, value: float, seed: int) -> None:
        self.value, self._seed = value, seed

    def measure(self, name: str) -> float | None:
        return self.value
