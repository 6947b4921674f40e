"""Several seeds of one run: each is what it would be alone, and their folder is one that commands understand."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_runs import SEEKR, TRAINING, Stop, StopAt, digests

from seekr import Run
from seekr.cli.main import main
from seekr.errors import InputError, RunError

Learn = Callable[..., Any]
METHOD = {"name": "replay", "replay_ratio": 0.2}


@pytest.fixture(scope="session")
def seeds(learn: Learn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of seeds 0 and 2 of a run of replay. Not to be written to."""
    folder = tmp_path_factory.mktemp("seeds") / "run"
    runs = learn(folder, method=METHOD, seeds=[0, 2])
    assert [run.folder for run in runs] == [folder / "seed-0", folder / "seed-2"]
    return folder


@pytest.fixture
def command(tmp_path: Path, config: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command; `learn` without more is that of the configuration. Returns exit status, stdout and stderr."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        if words[0] == "learn" and "--from" not in words:
            words = ("learn", tmp_path / "config.yaml", *words[1:])
        capsys.readouterr()
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return run


def test_a_seed_among_seeds_is_the_run_alone(learn: Learn, finished: Run, tmp_path: Path) -> None:
    first, second = learn(tmp_path / "seeds", seeds=[1, 0])
    alone = learn(tmp_path / "alone", seed=1)
    for among, single in ((first, alone), (second, finished)):
        assert digests(among.folder) == digests(single.folder)
        assert digests(among.folder, "scores.json") == digests(single.folder, "scores.json")
        assert digests(among.folder, "stages/*/log.jsonl") == digests(single.folder, "stages/*/log.jsonl")
    assert digests(first.folder) != digests(second.folder)
    assert first.record["config"]["seeds"] is None
    assert first.config.seed == 1


@pytest.mark.parametrize("task_and_step", [(1, 3), (2, 3)])  # of the first seed, of the second
def test_stopped_and_resumed_is_never_stopped(
    learn: Learn, seeds: Path, tmp_path: Path, task_and_step: tuple[int, int]
) -> None:
    with pytest.raises(Stop):
        learn(tmp_path / "run", method=METHOD, seeds=[0, 2], callbacks=[StopAt(*task_and_step)])
    assert (tmp_path / "run" / "seed-2").is_dir() is (task_and_step[0] == 2)
    learn(tmp_path / "run", method=METHOD, seeds=[0, 2])
    assert digests(tmp_path / "run") == digests(seeds)
    learn(tmp_path / "run", method=METHOD, seeds=[0, 2], callbacks=[StopAt(0, 1)])  # nothing is trained again


def test_more_seeds_add_runs_and_fewer_leave_the_others_alone(learn: Learn, seeds: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(seeds, tmp_path / "run")
    before = digests(folder, "**/*")
    (run,) = learn(folder, method=METHOD, seeds=[5], callbacks=[])
    assert run.folder == folder / "seed-5"
    after = digests(folder, "**/*")
    assert {name: digest for name, digest in after.items() if not name.startswith("seed-5")} == before
    assert {name for name in after if name.startswith("seed-5")}


def test_all_seeds_are_checked_before_the_first_is_trained(learn: Learn, seeds: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copytree(seeds / "seed-2", tmp_path / "run" / "seed-2")
    with pytest.raises(InputError, match=r"seed-2 holds a different run: training\.learning_rate is"):
        learn(tmp_path / "run", method=METHOD, seeds=[0, 2], training={**TRAINING, "learning_rate": 1e-3})
    assert not (tmp_path / "run" / "seed-0").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"training": {**TRAINING, "learning_rate": 1e-3}}, r"training\.learning_rate is 0.01 there and 0.001 here"),
        ({"method": SEEKR}, r"method\.name is replay there and seekr here"),
        ({"tasks": "ba"}, r"order of tasks is \['a', 'b'\] there and \['b', 'a'\] here"),
        ({"tasks": "cab"}, r"order of tasks is \['a', 'b'\] there and \['c', 'a'\] here"),
        ({"tasks": ["a", "limited"]}, r"tasks\.b\.train_limit is not set there and 5 here"),
    ],
)
def test_a_new_seed_must_be_of_the_same_run_as_those_that_are_there(
    learn: Learn, task: Any, seeds: Path, change: dict[str, Any], told: str
) -> None:
    before = digests(seeds, "**/*")
    tasks = [task("b", train_limit=5) if name == "limited" else name for name in change.get("tasks", "ab")]
    with pytest.raises(InputError, match=told):
        learn(seeds, **{"method": METHOD, "seeds": [7], **change, "tasks": tasks})
    assert digests(seeds, "**/*") == before


def test_folders_that_seeds_do_not_go_into(learn: Learn, finished: Run, seeds: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds a run of one seed \(0\)"):
        learn(finished.folder, seeds=[0])
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files, but no seeds of a run"):
        learn(tmp_path, seeds=[0])
    with pytest.raises(InputError, match="is a file"):
        learn(tmp_path / "notes.txt", seeds=[0])
    with pytest.raises(InputError, match="holds seed-0, seed-2: go on with them by `seeds`"):
        learn(seeds, method=METHOD)
    with pytest.raises(InputError, match=r"seed 3 and seeds \[0\] are both given"):
        learn(tmp_path / "x", seeds=[0], seed=3)
    with pytest.raises(InputError, match="seeds: input should be a valid list, not 2"):
        learn(tmp_path / "x", seeds=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]


def test_a_failed_run_says_which_seed(learn: Learn, tmp_path: Path) -> None:
    training = {**TRAINING, "learning_rate": 1e30}
    with pytest.raises(RunError, match=r"^seed 4: task 'a', step"):
        learn(tmp_path / "run", method="sequential", training=training, seeds=[4, 5])


def test_learn_and_look_at_seeds(command: Any, config: dict[str, Any], tmp_path: Path) -> None:
    config |= {"seeds": [0, 3], "method": "sequential"}
    root = tmp_path / "runs" / "x"
    status, out, err = command("learn", "--dry-run")
    assert (status, err) == (0, "")
    assert [line.split()[1] for line in out.splitlines() if line.startswith("output_dir")] == [
        str(root / "seed-0"),
        str(root / "seed-3"),
    ]
    assert out.count("method ") == 1
    assert not root.exists()

    status, out, _ = command("learn")
    assert status == 0
    runs = [Run(root / f"seed-{seed}") for seed in (0, 3)]
    for label, values in (
        ("OP", [run.scores.overall_performance for run in runs]),
        ("a", [run.scores.matrix[-1][0] for run in runs]),
    ):
        (line,) = [line for line in out.splitlines() if re.match(rf"│ {label} ", line)]
        cells = [cell.strip() for cell in line.split("│")[2:-1]]
        half = 12.706 * np.std(values, ddof=1) / 2**0.5  # Student's t of one degree of freedom
        assert cells == [
            f"{np.mean(values):.1f}" + (f" ± {half:.1f}" if half else ""),
            *(f"{one:.1f}" for one in values),
        ]

    status, out, _ = command("status", root)
    assert status == 0
    assert len(re.findall(r"│ [ab] +│ done +│ done +│", out)) == 2
    status, out, _ = command("evaluate", root, "--cells", "all")
    assert (status, "seed 3" in out) == (0, True)
    assert all(None not in run.scores.base for run in runs)
    status, out, _ = command("report", root, "--output", tmp_path / "page.html")
    assert status == 0
    page = (tmp_path / "page.html").read_text()
    assert re.findall(r"<h3>.* · seed (\d+)</h3>", page) == ["0", "3"]
    for name in ("heads", "memory"):
        status, out, err = command(name, root)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert f"give one of {root / 'seed-0'}, {root / 'seed-3'}" in err
    status, _, err = command("learn", "seed=3")
    assert (status, err.count("\n")) == (2, 1)
    assert "seed 3 and seeds [0, 3] are both given" in err
    assert command("learn", "seeds=null", "seed=3", "output_dir=runs/y", "--dry-run")[0] == 0


def test_one_more_task_on_top_of_every_seed(command: Any, seeds: Path, data_folder: Path, tmp_path: Path) -> None:
    before = digests(seeds, "**/*")
    add = [
        "learn",
        "--from",
        seeds,
        "--task",
        f"c={data_folder / 'c'},max_new_tokens=3",
        "--output-dir",
        tmp_path / "m",
    ]
    status, out, _ = command(*add, "--dry-run")
    assert (status, (tmp_path / "m").exists()) == (0, False)
    assert command(*add)[0] == 0
    status, out, _ = command(*add)
    assert status == 0
    assert re.search(r"│ c +│", out)
    for seed in (0, 2):
        run = Run(tmp_path / "m" / f"seed-{seed}")
        assert [stage.name for stage in run.stages] == ["a", "b", "c"]
        assert run.config.seed == seed
        assert json.loads((run.folder / "run.json").read_text())["from"] == str(seeds / f"seed-{seed}")
    assert digests(seeds, "**/*") == before
    status, _, err = command(*add[:-1], seeds)
    assert (status, err.count("\n")) == (2, 1)


@pytest.mark.parametrize("name", ["run.json", "."])
def test_figures_do_not_go_without_a_seed_that_is_torn_out(
    name: str, seeds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Means were of the seeds that were left, and nothing said so."""
    root = Path(shutil.copytree(seeds, tmp_path / "run"))
    lost = root / "seed-2" / name
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    if name == ".":
        lost.write_text("")
    for command in ("status", "check", "compare", "report", "verify", "evaluate"):
        more = ["--output", str(tmp_path / "page.html")] if command == "report" else []
        assert main([command, str(root), *more]) == 2
        assert f"{root / 'seed-2'}: run.json is missing" in capsys.readouterr().err
    assert main(["status", str(root / "seed-0")]) == 0


def test_a_seed_that_has_not_begun_is_no_lost_one(seeds: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(seeds, tmp_path / "run"))
    (root / "seed-3").mkdir()
    (root / "seed-3/.lock").touch()
    assert main(["status", str(root)]) == 0
