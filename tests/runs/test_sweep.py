"""Several methods in one command: each run is what it would be alone, and all are checked before the first begins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_runs import digests

from seekr import Run
from seekr.cli.main import main
from seekr.errors import RunError
from seekr.runs import execute


@pytest.fixture
def learn_all(tmp_path: Path, config: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Gives `seekr learn` of the configuration, and returns exit status, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        capsys.readouterr()
        status = main(["learn", str(tmp_path / "config.yaml"), *words])
        return status, *capsys.readouterr()

    return run


def test_each_method_is_the_run_alone_and_the_table_has_them_all(learn_all: Callable[..., Any], tmp_path: Path) -> None:
    status, out, err = learn_all("--methods", "sequential,seekr", "method.query_budget=3", "seeds=[1,2]")
    assert status == 0, err
    root = tmp_path / "runs" / "x"
    dropped = "attention_weight, query_budget, replay_ratio"
    assert f"method 1 of 2: sequential: {root / 'sequential'}; it does not know {dropped}" in err
    assert out.count(" ± ") >= 4
    alone = tmp_path / "runs" / "alone"
    assert learn_all("method.query_budget=3", "seed=2", f"output_dir={alone}")[0] == 0
    assert digests(root / "seekr" / "seed-2") == digests(alone)
    assert Run(root / "seekr" / "seed-2").config.method["query_budget"] == 3
    assert Run(root / "sequential" / "seed-1").config.method == {"name": "sequential"}


def test_a_stopped_sweep_goes_on_and_passes_over_what_is_finished(
    learn_all: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, build = [], execute.finish_stage

    def stop_after_two(spec: Any, book: Any) -> None:
        build(spec, book)
        built.append(spec.run.name)
        if built == ["sequential", "sequential", "replay"]:
            raise KeyboardInterrupt

    monkeypatch.setattr(execute, "finish_stage", stop_after_two)
    words = ("--methods", "sequential,replay")
    status, _, err = learn_all(*words)
    assert (status, "goes on from there" in err) == (130, True)
    root = tmp_path / "runs" / "x"
    before = digests(root / "sequential", "**/*")
    assert learn_all(*words)[0] == 0
    assert {name: digests(root / "sequential", "**/*")[name] for name in before} == before
    assert [stage.name for stage in Run(root / "replay").stages] == ["a", "b"]
    assert learn_all("method.name=replay", "output_dir=runs/alone")[0] == 0
    assert digests(root / "replay") == digests(tmp_path / "runs" / "alone")


def test_one_that_fails_leaves_the_others_and_is_named(
    learn_all: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = execute.finish_stage

    def fail(spec: Any, book: Any) -> None:
        if spec.method.name == "replay":
            raise RunError("no more disk")
        finish(spec, book)

    monkeypatch.setattr(execute, "finish_stage", fail)
    status, out, err = learn_all("--methods", "replay,sequential")
    assert status == 1
    assert "seekr: method replay failed: no more disk" in err
    assert err.splitlines()[-1] == "seekr: error: failed: replay, as said above; the same command tries again"
    assert "sequential" in out
    assert "not counted, 1 of its 2 tasks are learned" in out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--methods", "sequential,sekr"], "'sekr' is no method; did you mean 'seekr'?"),
        (["--methods", "replay,replay"], "names replay twice"),
        (["--methods", "replay,"], "no list of names"),
        (["--methods", "replay,seekr", "method.name=derpp"], "--methods names the methods"),
        (["--methods", "sequential,replay", "method.replay_ratio=2"], "method replay: "),
        (["--methods", "sequential,replay", "method.ratio=2"], "sequential has no such setting"),
        (["--methods", "replay", "--redo", "a"], "--redo is of one run"),
        (["--methods", "replay", "--from", "x", "--task", "b=c"], "--from is of one run"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_begins(
    learn_all: Callable[..., Any], tmp_path: Path, words: list[str], why: str
) -> None:
    status, out, err = learn_all(*words)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert why in err
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_a_run_is_no_place_for_a_sweep(learn_all: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "run.json").write_text("{}")
    status, _, err = learn_all("--methods", "sequential,replay")
    assert status == 2
    assert "holds a run; --methods makes a folder for each method" in err


def test_a_dry_run_shows_each_method_and_writes_nothing(learn_all: Callable[..., Any], tmp_path: Path) -> None:
    status, out, _ = learn_all("--methods", "sequential,seekr", "--dry-run")
    assert status == 0
    assert out.count("nothing was written (--dry-run)") == 2
    assert "method sequential: " in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("more", "root"), [([], "runs/paper"), (["output_dir=here"], "here")])
def test_a_sweep_of_a_recipe_is_in_a_folder_of_its_name(
    tmp_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], more: list[str], root: str,
) -> None:  # fmt: skip
    """It was named after the recipe's own method too: runs/paper-seekr/sequential."""
    monkeypatch.chdir(tmp_path)
    words = [f"model={config['model']}", f"tasks={json.dumps(config['tasks'])}", *more]
    assert main(["learn", "--recipe", "paper", "--methods", "sequential,replay", *words, "--dry-run"]) == 0
    out = "".join(capsys.readouterr().out.split())
    assert all(f"method{name}:{tmp_path / root / name}" in out for name in ("sequential", "replay"))
    assert not (tmp_path / "runs").exists()
