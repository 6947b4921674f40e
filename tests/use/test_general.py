"""General tasks of lm-evaluation-harness on the base model and the stages of a run."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import seekr
from seekr import Run
from seekr.builtin import builtin_model, builtin_rows
from seekr.cli.main import main
from seekr.runs.general_tasks import GENERAL_FILE, GeneralScore, general_changes, read_general, write_general

pytestmark = pytest.mark.thorough

YAML = """
task: {name}
tag: pair
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: ["up", "down"]
doc_to_target: "{{{{a}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}, {{metric: acc_norm, aggregation: mean,
  higher_is_better: true}}]
metadata: {{version: {version}}}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of the harness, of one tag, on rows of a local file."""
    folder = tmp_path_factory.mktemp("harness")
    for number, name in enumerate(("sky", "sea")):
        rows = [{"q": f"{name} {n}:", "a": ("up", "down")[(n + number) % 2]} for n in range(5 + number)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        fields = {"name": name, "rows": folder / f"{name}.jsonl", "cache": folder / "cache", "version": 1}
        (folder / f"{name}.yaml").write_text(YAML.format(**fields))
    return folder


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = {"a": builtin_rows("span", "train", seed=0, count=8), "b": builtin_rows("upper", "train", seed=0, count=8)}
    made = [seekr.Task(name, train=found, test=found[:2], separator="") for name, found in rows.items()]
    folder = tmp_path_factory.mktemp("runs") / "one"
    training = {"max_steps": 2, "learning_rate": 1e-2}
    seekr.learn(model=builtin_model(), tasks=made, method="sequential", training=training, output_dir=folder)
    return folder


@pytest.fixture
def run(learned: Path, tmp_path: Path) -> Path:
    shutil.copytree(learned, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def ask(run: Path, names: str, tasks: Path) -> int:
    return main(["evaluate", str(run), "--general", names, "--general-tasks", str(tasks)])


def test_scores_are_those_of_the_harness_by_itself(run: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model by `simple_evaluate` on its folder; a tag is the mean over its tasks; nothing is measured twice."""
    evaluator = pytest.importorskip("lm_eval.evaluator")
    from lm_eval.tasks import TaskManager

    assert ask(run, "sky,pair", tasks) == 0
    found = {(one.task, one.stage): one for one in read_general(run)}
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    places: dict[str | None, Any] = {None: builtin_model(), **{stage.name: stage.model for stage in Run(run).stages}}
    assert found.keys() == {(task, stage) for task in ("sky", "pair") for stage in places}
    for stage, folder in places.items():
        by_itself = evaluator.simple_evaluate(
            model="hf",
            model_args={"pretrained": str(folder), "dtype": "float32"},
            tasks=["sky", "sea"],
            task_manager=manager,
            device="cpu",
        )["results"]
        one, both = found["sky", stage], found["pair", stage]
        assert (one.metric, one.rows, one.score) == ("acc", 5, by_itself["sky"]["acc,none"])
        assert one.error == pytest.approx(by_itself["sky"]["acc_stderr,none"])
        assert (both.rows, both.error) == (11, None)
        assert both.score == pytest.approx((by_itself["sky"]["acc,none"] + by_itself["sea"]["acc,none"]) / 2)
    kept = (run / GENERAL_FILE).read_bytes()
    monkeypatch.setattr(evaluator, "evaluate", None)
    assert ask(run, "pair,sky", tasks) == 0
    assert (run / GENERAL_FILE).read_bytes() == kept


def test_change_is_told_by_status_check_and_page(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = GeneralScore("sky", None, "acc", 0.6, 0.1, 5, "lm_eval 1, task 1")
    scores = [base, GeneralScore("sky", "a", "acc", 0.5, 0.1, 5, base.version)]
    write_general(run, [*scores, GeneralScore("sky", "b", "acc", 0.25, 0.1, 5, base.version)])
    word = "eneral task sky 0.600 → 0.250 (acc)"
    for command in (["status"], ["check", "--max-drop", "100"]):
        main([*command, str(run)])
        assert word in capsys.readouterr().out
        main([*command, str(run), "--json"])
        told = json.loads(capsys.readouterr().out)["runs"][0]["general"]["tasks"]
        assert [(one["stage"], one["score"]) for one in told] == [(None, 0.6), ("a", 0.5), ("b", 0.25)]
    main(["report", str(run), "--output", str(run.parent / "page.html")])
    assert word in (run.parent / "page.html").read_text()


def test_scores_of_another_version_are_not_compared() -> None:
    old, new = (GeneralScore("sky", None, "acc", 0.6, None, 5, version) for version in ("1", "2"))
    later = GeneralScore("sky", "b", "acc", 0.1, None, 5, "1")
    assert general_changes([new, later], ["a", "b"]) == []
    (change,) = general_changes([old, GeneralScore("sky", "a", "acc", 0.2, None, 5, "1"), later], ["a", "b"])
    assert (change.before, change.now) == (old, later)


def test_scores_go_with_a_stage_that_is_learned_again(run: Path) -> None:
    write_general(run, [GeneralScore("sky", stage, "acc", 0.6, None, 5, "1") for stage in (None, "a", "b")])
    from seekr.runs.general_tasks import forget_stages

    forget_stages(run, ["b"])
    assert [one.stage for one in read_general(run)] == [None, "a"]


def test_adapter_answers_with_its_base(tasks: Path, tmp_path: Path) -> None:
    rows = builtin_rows("span", "train", seed=0, count=8)
    task = seekr.Task("a", train=rows, separator="")
    training = {"max_steps": 2, "learning_rate": 1e-1}
    folder = tmp_path / "run"
    seekr.learn(model=builtin_model(), tasks=[task], method="sequential", training=training, lora={}, output_dir=folder)
    assert ask(folder, "sky", tasks) == 0
    assert [one.stage for one in read_general(folder)] == [None, "a"]


@pytest.mark.parametrize(
    ("names", "said"),
    [("skye", "'skye' is no task; did you mean 'sky'"), ("torn", "torn cannot be had (FileNotFoundError: ")],
)
def test_task_that_cannot_be_had_is_one_line(
    run: Path, tasks: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, names: str, said: str
) -> None:
    shutil.copytree(tasks, tmp_path / "tasks")
    fields = {"name": "torn", "rows": tmp_path / "gone.jsonl", "cache": tmp_path / "cache", "version": 1}
    (tmp_path / "tasks" / "torn.yaml").write_text(YAML.format(**fields))
    assert ask(run, names, tmp_path / "tasks") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("seekr: error: --general: ")
    assert said in last
    assert not (run / GENERAL_FILE).exists()


def test_missing_package_is_one_line_with_the_command(
    run: Path, tasks: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "lm_eval":
            raise ModuleNotFoundError("No module named 'lm_eval'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert ask(run, "sky", tasks) == 2
    assert "pip install 'seekr-continual[lm-eval]'" in capsys.readouterr().err


def test_learned_prompts_are_refused(tmp_path: Path, tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = builtin_rows("span", "train", seed=0, count=4)
    task = seekr.Task("a", train=rows, separator="")
    seekr.learn(
        model=builtin_model(), tasks=[task], method="progressive_prompts", training={"max_steps": 1},
        output_dir=tmp_path / "run",
    )  # fmt: skip
    assert ask(tmp_path / "run", "sky", tasks) == 2
    assert "progressive_prompts answers by prompts" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[1]", '[{"task": "sky"}]'])
def test_torn_file_is_told(run: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (run / GENERAL_FILE).write_text(content)
    assert main(["status", str(run)]) == 0
    assert "delete it and run" in capsys.readouterr().err
