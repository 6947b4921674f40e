"""Live logging: one run in each logger, over all tasks, as log.jsonl and scores.json have it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import transformers.integrations
from small_runs import TRAINING, Stop, StopAt, digests

from seekr import Run
from seekr.cli.main import main
from seekr.runs.live import values_of

pytestmark = pytest.mark.thorough

TENSORBOARD = {**TRAINING, "report_to": "tensorboard"}
Told = dict[str, list[tuple[int, float]]]


def told_to_tensorboard(folder: Path) -> Told:
    """Tag → steps and values, as TensorBoard itself reads them."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(folder)).Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def told_by_files(run: Run) -> Told:
    """What there is to tell, by log.jsonl and scores.json."""
    told: Told = {}
    before, totals = 0, [0]
    for stage in run.stages:
        lines = [json.loads(line) for line in (stage.folder / "log.jsonl").read_text().splitlines()]
        for line in lines:
            for name, value in values_of(line):
                told.setdefault(name, []).append((before + line["step"], value))
        totals.append(before := before + len(lines))
    for after, name in run.cells:
        told.setdefault(f"score/{run.tasks[name]}", []).append((totals[after + 1], run.scores.matrix[after][name]))
    return told


def assert_same(found: Told, wanted: Told) -> None:
    assert found.keys() == wanted.keys()
    for tag, values in wanted.items():
        assert [step for step, _ in found[tag]] == [step for step, _ in sorted(values)], tag
        assert [value for _, value in found[tag]] == pytest.approx([v for _, v in sorted(values)], rel=1e-6), tag


def test_tensorboard_has_one_run_over_all_tasks(learn: Callable[..., Run], finished: Run, tmp_path: Path) -> None:
    run = learn(tmp_path / "mine", training=TENSORBOARD, cells="seen")
    assert [path.name for path in (run.folder / "logs").iterdir()] == ["mine"]
    found = told_to_tensorboard(run.folder / "logs" / "mine")
    assert_same(found, told_by_files(run))
    assert {"task/loss", "replay/attention", "replay/gradient_share/attention", "score/a"} <= found.keys()
    assert len(found["task/loss"]) + len(found["replay/loss"]) == sum(run.steps.values())
    assert digests(run.folder) == digests(finished.folder)


def test_weight_that_follows_is_told(learn: Callable[..., Run], tmp_path: Path) -> None:
    method = {"name": "seekr", "replay_ratio": 0.2}
    run = learn(tmp_path / "mine", training=TENSORBOARD, method=method)
    found = told_to_tensorboard(run.folder / "logs" / "mine")["replay/attention_weight"]
    assert found[-1][1] == pytest.approx(run.attention_weights["b"])


def test_resumed_run_is_told_as_one_that_was_never_stopped(learn: Callable[..., Run], tmp_path: Path) -> None:
    """Stopped after a step that no checkpoint has: it is taken, and told, again, once."""
    with pytest.raises(Stop):
        learn(tmp_path / "mine", training=TENSORBOARD, callbacks=[StopAt(0, 3)])
    with pytest.raises(Stop):
        learn(tmp_path / "mine", training=TENSORBOARD, callbacks=[StopAt(1, 3)])
    run = learn(tmp_path / "mine", training=TENSORBOARD)
    assert_same(told_to_tensorboard(run.folder / "logs" / "mine"), told_by_files(run))


def test_scores_of_evaluate_join_the_run(learn: Callable[..., Run], tmp_path: Path) -> None:
    run = learn(tmp_path / "mine", training=TENSORBOARD)
    assert main(["evaluate", str(run.folder), "--cells", "seen"]) == 0
    assert_same(told_to_tensorboard(run.folder / "logs" / "mine"), told_by_files(run))


def test_logging_steps_thins_the_steps_of_all_tasks(learn: Callable[..., Run], tmp_path: Path) -> None:
    run = learn(tmp_path / "mine", training={**TENSORBOARD, "logging_steps": 3}, method="sequential")
    found = told_to_tensorboard(run.folder / "logs" / "mine")["task/loss"]
    assert [step for step, _ in found] == [3, 6]


def test_seeds_are_runs_of_their_own_names(learn: Callable[..., Run], tmp_path: Path) -> None:
    learn(tmp_path / "mine", "a", training=TENSORBOARD, method="sequential", seeds=[3, 4])
    assert sorted(path.name for path in tmp_path.glob("mine/*/logs/*")) == ["mine-seed-3", "mine-seed-4"]


class StandIn(ModuleType):
    """What wandb and trackio have in common, as far as it is used: every call is kept."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.began: list[dict[str, Any]] = []
        self.told: list[tuple[int, dict[str, float]]] = []
        self.ended = 0

    def init(self, **settings: Any) -> Any:
        self.began.append(settings)
        return SimpleNamespace(log=lambda values, step: self.told.append((step, values)), finish=self.finish)

    def finish(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_other_loggers_get_one_run_that_goes_on(
    learn: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Stand-ins in place of the packages: the same run by name (and id), every step and score, an end to each start."""
    logger = StandIn(name)
    monkeypatch.setitem(sys.modules, name, logger)
    monkeypatch.setattr(transformers.integrations, "get_available_reporting_integrations", lambda: [name])
    training = {**TRAINING, "report_to": name}
    with pytest.raises(Stop):
        learn(tmp_path / "mine", training=training, callbacks=[StopAt(1, 1)])
    run = learn(tmp_path / "mine", training=training)
    assert len(logger.began) == 2
    assert {one["name"] for one in logger.began} == {"mine"}
    assert {one["resume"] for one in logger.began} == {"allow"}
    assert {one["config"]["output_dir"] for one in logger.began} == {str(run.folder)}
    if name == "wandb":
        assert len({one["id"] for one in logger.began}) == 1
        assert {one["dir"] for one in logger.began} == {str(run.folder / "logs")}
    assert logger.ended == len(logger.began)
    found: dict[str, dict[int, float]] = {}
    for step, values in logger.told:
        for tag, value in values.items():
            found.setdefault(tag, {})[step] = value
    assert_same({tag: sorted(values.items()) for tag, values in found.items()}, told_by_files(run))


def test_nothing_is_opened_where_no_logger_is_named(finished: Run) -> None:
    assert not (finished.folder / "logs").exists()
