import io
import re
from pathlib import Path

import pytest
from fake_runs import write_run
from rich.console import Console, RenderableType

from seekr.report.terminal import heads_table, memory_table, methods_table, readable_bytes, score_table
from seekr.runs.run import Run, read_runs

LONG = ("C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm", "NumGLUE-ds", "20Minuten")


def printed(table: RenderableType, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("width", "tasks"), [(60, LONG), (80, LONG), (160, LONG), (80, tuple("abcdefghijklmno"))])
def test_every_measured_score_is_whole_at_any_width(tmp_path: Path, width: int, tasks: tuple[str, ...]) -> None:
    run = Run(write_run(tmp_path / "run", tasks=tasks, steps=5))
    lines = printed(score_table(run), width)
    assert max(map(len, lines)) <= width
    assert run.scores is not None
    rows = [line for line in lines if re.search(r"\d\.\d", line)]
    for line, row in zip(rows, run.scores.matrix, strict=True):
        assert re.findall(r"\d+\.\d", line) == [f"{score:.1f}" for score in row if score is not None]


@pytest.mark.parametrize("width", [80, 160])
def test_methods_fit_and_keep_their_numbers(tmp_path: Path, width: int) -> None:
    for method in ("sequential", "replay", "derpp", "seekr"):
        for seed in (0, 1, 2):
            write_run(tmp_path / method / f"seed-{seed}", method=method, seed=seed, steps=5)
    write_run(tmp_path / "joint", method="joint")
    runs = read_runs([tmp_path])
    lines = printed(methods_table(runs), width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    assert ("÷ all tasks" in text) is (width == 160)
    joint = next(run for run in runs if run.joint)
    assert f"{joint.measure('overall_performance'):.1f}" in next(line for line in lines if "joint" in line)


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize(("layers", "heads"), [(4, 8), (3, 32), (2, 71)])
def test_chosen_heads_are_marked_without_colour(tmp_path: Path, width: int, layers: int, heads: int) -> None:
    run = write_run(tmp_path / "run", tasks=("only",), matrix=[[50.0]], layers=layers, heads=heads, steps=5)
    stage = Run(run).stages[0]
    lines = printed(heads_table(stage), width)
    assert max(map(len, lines)) <= width
    for layer in range(layers):
        rows = [line for line in lines if line.startswith(f"layer {layer} ")]
        cells = "".join(line.removeprefix(f"layer {layer}").replace(" ", "") for line in rows)
        marks = [cell for cell in cells if cell != "*"]
        assert len(marks) == heads
        chosen, head = [], -1
        for cell in cells:
            if cell == "*":
                chosen.append(head)
            else:
                head += 1
        assert list(chosen) == stage.heads.get(layer, [])


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    run = Run(write_run(tmp_path / "run", method="replay"))
    assert printed(heads_table(run.stages[0]), 80) == ["copy: its method measures no heads"]
    (run.folder / "scores.json").unlink()
    assert printed(score_table(Run(run.folder)), 80) == ["nothing scored yet"]


def test_memory_adds_up() -> None:
    counts = {"samples": 20, "tokens": 1000, "answer_tokens": 50, "heads": 3, "layers": 2, "queries": None}
    lines = printed(memory_table([{"task": "a", **counts, "forms": ["rows"], "bytes": 600_000}] * 2), 80)
    assert lines[-2].split() == ["together", "40", "2,000", "100", "1.20", "MB"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (9_996, "10.0 kB"),
        (999_600, "1.00 MB"),
        (3**18, "387 MB"),
    ],
)
def test_sizes_have_three_digits(count: int, text: str) -> None:
    assert readable_bytes(int(count)) == text
