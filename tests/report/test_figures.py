"""Figures for papers: the numbers that are drawn are those of the scores, in three forms, the same bytes each time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fake_runs import write_run

from seekr.cli.main import main
from seekr.errors import InputError
from seekr.report import figures
from seekr.report.figures import write_figures
from seekr.report.summary import summarize
from seekr.runs.run import Run

TASKS = ("copy", "sort", "add")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        write_run(root / "seekr" / f"seed-{seed}", seed=seed, tasks=TASKS)
    write_run(root / "joint", method="joint", tasks=TASKS)
    return root


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where figures would be written; they are made and left."""
    paths: list[Path] = []
    monkeypatch.setattr(figures, "_write", lambda figure, path: paths.append(path))
    return paths


def matrices(runs: Path) -> np.ndarray:
    """[seeds, after, task], nan where not measured."""
    folders = sorted((runs / "seekr").iterdir())
    scores = [json.loads((folder / "scores.json").read_text())["matrix"] for folder in folders]
    return np.array(scores, dtype=float)


def test_every_figure_is_written_in_three_forms_and_the_same_again(runs: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        written = write_figures([runs], tmp_path / name)
        assert [path.stem for path in written] == [
            "stages", "performance", "matrix-joint", "matrix-seekr", *(f"heads-seekr-seed-{seed}" for seed in (0, 1))
        ]  # fmt: skip
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(f"{path.stem}.{form}" for path in written for form in ("svg", "pdf", "png"))
    begins = {".svg": b"<?xml", ".pdf": b"%PDF", ".png": b"\x89PNG"}
    for name in files:
        content = (tmp_path / "one" / name).read_bytes()
        assert content.startswith(begins[Path(name).suffix])
        assert content == (tmp_path / "two" / name).read_bytes(), name


def test_a_matrix_shows_the_mean_of_the_seeds(runs: Path) -> None:
    summary = next(it for it in summarize([Run(folder) for folder in sorted((runs / "seekr").iterdir())]))
    (axes,) = figures._matrix(summary).axes
    shown = {tuple(map(round, text.get_position()[::-1])): text.get_text() for text in axes.texts}
    means = matrices(runs).mean(0)
    assert shown == {place: f"{value:.1f}" for place, value in np.ndenumerate(means) if np.isfinite(value)}


def test_lines_over_the_stages_are_the_scores(runs: Path) -> None:
    summaries = summarize([Run(runs / "joint"), *(Run(folder) for folder in sorted((runs / "seekr").iterdir()))])
    figure = figures._stages(summaries)
    means = matrices(runs).mean(0)
    joint = json.loads((runs / "joint" / "scores.json").read_text())["matrix"][-1]
    for task, axes in enumerate(figure.axes):
        level, line, *_ = axes.get_lines()
        assert list(level.get_ydata()) == pytest.approx([joint[task]] * 2)
        measured = np.flatnonzero(np.isfinite(means[:, task]))
        assert list(line.get_xdata()) == (measured + 1).tolist()
        assert list(line.get_ydata()) == pytest.approx(means[measured, task])


def test_heads_are_outlined_where_they_are_chosen(runs: Path) -> None:
    stages = Run(runs / "seekr" / "seed-0").stages
    for stage, axes in zip(stages, figures._heads(stages).axes, strict=True):
        table = stage.importance["importance"]
        assert np.allclose(axes.images[0].get_array(), table / table.max())
        boxes = {(round(np.mean(box.get_ydata()[:-1])), round(np.mean(box.get_xdata()[:-1]))) for box in axes.lines}
        assert boxes == {(layer, head) for layer, chosen in stage.heads.items() for head in chosen}


def test_labels_that_differ_in_signs_alone_get_files_of_their_own(undrawn: list[Path], tmp_path: Path) -> None:
    for place, weight in enumerate(("a/b", "a b")):
        write_run(tmp_path / f"run-{place}", tasks=TASKS, settings={"teacher_form": weight})
    written = write_figures([tmp_path], tmp_path / "figures")
    assert len(set(written)) == len(written) == len(undrawn) == 6


def test_other_tasks_have_figures_of_their_own(undrawn: list[Path], runs: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "other", tasks=("a", "b"))
    names = [path.name for path in write_figures([runs / "joint", tmp_path / "other"], tmp_path / "figures")]
    assert names[:4] == ["stages-1.svg", "performance-1.svg", "matrix-joint-1.svg", "stages-2.svg"]


def test_what_cannot_be_drawn_is_said_before_the_page_is_written(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, file = tmp_path / "report.html", tmp_path / "file"
    file.write_text("")
    command = ["report", str(runs), "--output", str(page), "--figures"]
    assert main([*command, str(file)]) == 2
    assert "--figures: " in capsys.readouterr().err
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    assert main([*command, str(tmp_path / "figures")]) == 2
    assert capsys.readouterr().err.count("pip install 'seekr-continual[figures]'") == 1
    with pytest.raises(InputError, match="matplotlib is not installed"):
        write_figures([runs], tmp_path / "figures")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    monkeypatch.undo()
    assert main([*command, str(tmp_path / "figures")]) == 0
    assert f"written: {tmp_path / 'figures' / 'stages.svg'}, and as .pdf and .png" in capsys.readouterr().out
