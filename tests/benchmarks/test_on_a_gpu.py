"""The script that measures on a GPU: every part in its tiny form on this CPU, and what it does when a case fails."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu_profile
import on_a_gpu
import pytest
import study
import torch
from gpu_rows import Rows
from json_rows import rows_of
from torch.autograd import DeviceType

pytestmark = pytest.mark.thorough


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the script sets for itself ends with the test."""
    if torch.cuda.is_available():
        pytest.skip("this process has a GPU: python benchmarks/on_a_gpu.py PART --tiny is the test there")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.syspath_prepend(on_a_gpu.ROOT)  # what the script puts there itself ends with the test, too


def _run(folder: Path, *words: str) -> tuple[int, list[dict[str, Any]]]:
    file = folder / "it.jsonl"
    common = ["--device", "cpu", "--tiny", "--json", str(file), "--work", str(folder / "work")]
    return on_a_gpu.main([*words, *common]), rows_of(file)


def _seconds_are_ratios(rows: list[dict[str, Any]]) -> None:
    first = rows[0]["seconds"]
    assert first > 0
    assert [row["times_seconds"] for row in rows] == [row["seconds"] / first for row in rows]


def test_kernels_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of each case beside what they may be, by Triton's interpreter; known cases are not measured again."""
    pytest.importorskip("triton")
    monkeypatch.setattr(on_a_gpu, "tests", lambda *_: True)
    status, (machine, *rows) = _run(tmp_path, "kernels")
    assert status == 0
    assert machine["case"] == "machine"
    assert machine["gpu"] is None
    assert [set(row["errors"]) for row in rows] == [{"value", "query", "key", "sink"}] * 2
    assert all(0 < row["errors"]["value"] <= row["within"]["value"] for row in rows)
    assert _run(tmp_path, "kernels") == (0, [machine, *rows])


def test_kernels_that_are_off_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail: a tenth more, and no number at all."""
    pytest.importorskip("triton")
    monkeypatch.syspath_prepend(on_a_gpu.PATHS[1])
    monkeypatch.syspath_prepend(on_a_gpu.PATHS[2])
    import gpu_kernels

    from seekr.attention import divergence, divergence_triton

    for factor, error in ((1.1, pytest.approx(0.1, rel=1e-2)), (math.nan, None)):
        monkeypatch.setattr(
            divergence_triton,
            "attention_divergence",
            lambda *call, f=factor: f * divergence.attention_divergence(*call),
        )
        (row,) = gpu_kernels.compare("cpu", torch.float32, 8, "exact", None, False, gpu_kernels.SAMPLES[1:2])
        assert not row["passed"]
        assert row["errors"]["value"] == error


def test_grid_has_every_dtype_size_form_and_way() -> None:
    """Fifty cases of different names; soft cap and sink come with every form."""
    pytest.importorskip("triton")
    import gpu_kernels

    names = [name for name, _ in gpu_kernels.grid("cpu", tiny=False)]
    assert len(set(names)) == len(names) == 50
    for form in gpu_kernels.FORMS:
        for way in ("None, sink False", "None, sink True", "4.0, sink False", "4.0, sink True"):
            assert sum(f", {form}, soft cap {way}" in name for name in names) >= 3


@pytest.mark.parametrize("part", ["bench", "flash", "long", "step7b"])
def test_measurements_tiny(tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seekr.bench.sensitivity.LENGTHS", (64, 128))
    status, (_, *rows) = _run(tmp_path, part)
    assert status == 0
    assert all(row["seconds"] > 0 for row in rows)
    assert {(row["part"], row["gpu"], row["tiny"]) for row in rows} == {(part, None, True)}
    if part != "bench":
        _seconds_are_ratios(rows)
    if part == "step7b":
        assert [(row["path"], row["queries"], row["layers"]) for row in rows] == [
            *(("plain", None, 2), ("seekr", None, 2), ("seekr", 100, 2))
        ]
        assert all(isinstance(row["peak_bytes"], int) for row in rows)  # of so small a model the allocator's noise


def test_tiles_tiny(tmp_path: Path) -> None:
    """A case for each tile, beside attention; a CPU takes no kernels, so that nothing else is seen there."""
    pytest.importorskip("triton")
    status, (_, *rows) = _run(tmp_path, "tiles")
    assert status == 0
    assert [row["tile"] for row in rows] == [[64, 64, 4, 3]] * 2 + [[64, 64, 4, 2]] * 2


def test_kernels_and_the_stretches_they_lie_in_were_counted_together() -> None:
    """On a GPU a step of 0.3 s was busy for 13."""

    def event(start: float, end: float, device: DeviceType = DeviceType.CUDA, named: bool = False) -> SimpleNamespace:
        times = SimpleNamespace(start=1e6 * start, end=1e6 * end)
        return SimpleNamespace(time_range=times, device_type=device, is_user_annotation=named)

    kernels = [event(5, 6), event(0, 2), event(1, 3), event(1.5, 2.5)]
    others = [event(0, 9, named=True), event(3, 8, DeviceType.CPU)]
    assert gpu_profile.busy([*others, *kernels]) == pytest.approx(4.0)
    assert gpu_profile.busy([]) == 0


def test_host_tiny(tmp_path: Path) -> None:
    """On a CPU nothing is busy on a GPU and nothing waits for one; what is read is a part of the step."""
    status, (_, plain, *ways) = _run(tmp_path, "host")
    assert status == 0
    assert [(row["path"], row["queries"]) for row in (plain, *ways)] == [
        ("plain", None),
        ("seekr", None),
        ("seekr", 100),
    ]
    assert all(row["busy"] == row["waits"] == row["launches"] == 0 for row in (plain, *ways))
    assert plain["own_share"] == 0
    assert all(0 < row["own_share"] < 1 and row["reading"] > 0 for row in ways)


def test_fewer_layers_are_taken_where_more_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may end while a model is made, or in a step, which then has no seconds."""
    import gpu_steps

    from seekr.bench.shapes import LLAMA_2_7B

    asked = []

    def rows(shape: Any, length: int, ways: Any, *, apart: bool) -> list[dict[str, Any]]:
        asked.append((shape.layers, *shape.chosen))
        if shape.layers == 32:
            raise torch.OutOfMemoryError
        return [{"seconds": None if shape.layers == 28 else 2.0, "peak_bytes": 3} for _ in ways]

    monkeypatch.setattr(gpu_steps, "step_rows", rows)
    found = gpu_steps.step_that_fits(LLAMA_2_7B, 2048)
    assert asked == [(32, 24, 128), (28, 21, 112), (24, 18, 96)]
    assert [row["layers"] for row in found] == [24] * 3


class TimeIsOver(study.Clock):
    """What the script's timer does, in the first step that is trained."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        signal.raise_signal(signal.SIGALRM)


def test_study_stopped_by_the_clock_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl-C, a checkpoint is left; the same command then measures the run, and once only."""
    with monkeypatch.context() as late:
        late.setattr(study, "Clock", TimeIsOver)
        status, rows = _run(tmp_path, "study")
    assert status == 130
    assert [row["case"] for row in rows] == ["machine"]
    assert len(list(tmp_path.glob("work/study/**/checkpoint-1"))) == 1
    status, (*_, row) = _run(tmp_path, "study")
    assert status == 0
    assert (row["method"], row["steps"]) == ("replay", {"task": 4, "replay": 2})
    assert row["seconds"]["training"] is None  # a part of it was in the process that stopped
    assert len(_run(tmp_path, "study")[1]) == 2


def test_study_at_full_size_is_asked_for_in_the_words_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2 is written once and whole; methods, seeds and data of the command line win."""
    written, asked = [], []
    monkeypatch.setattr("smollm2.write_model", lambda folder: written.append(folder) or folder.mkdir(parents=True))
    monkeypatch.setattr(study, "main", lambda words: asked.append(study.parser(study.__doc__).parse_args(words)))
    words = on_a_gpu.parse(["study", "--json", "x", "--study", *_WORDS]).study
    given = on_a_gpu.Given(Rows(str(tmp_path / "it.jsonl"), "study", "a GPU", False), "cuda", False, tmp_path, words)
    for _ in range(2):
        assert on_a_gpu.study(given)
    assert len(written) == 1
    found = vars(asked[1])
    assert found["base"].is_dir()
    assert (found["suite"], found["device"], found["split"]) == ("smol6", "cuda", "test")
    assert (found["methods"], found["seeds"], found["data"]) == (["seekr-auto", "joint"], [3, 4], Path("there"))
    assert str(found["json"]) == given.rows.file


_WORDS = ["--data", "there", "--methods", "seekr-auto", "joint", "--seeds", "3", "4", "--split", "test"]


@pytest.mark.slow
def test_launch_tiny(tmp_path: Path) -> None:
    status, (_, *rows) = _run(tmp_path, "launch")
    assert status == 0
    assert [row["case"].split("::")[-1] for row in rows] == [
        *("ddp, float32", "test_fp16_without_a_gpu_is_refused_and_not_left_out")
    ]
    assert len(rows[0]["matrix"]) == 2


def test_tests_are_rows_and_those_that_failed_come_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each test as it ends, why it failed in it; what passed is not run again."""
    tests = tmp_path / "test_it.py"
    tests.write_text("def test_a():\n    assert 1 == 2\n\n\ndef test_b():\n    pass\n")
    rows = Rows(str(tmp_path / "it.jsonl"), "kernels", None, True)
    given = on_a_gpu.Given(rows, "cpu", True, tmp_path, [])
    assert not on_a_gpu.tests(given, str(tests))
    first = rows_of(Path(rows.file))
    assert [(row["case"].split("::")[1], row["passed"]) for row in first] == [("test_a", False), ("test_b", True)]
    assert "assert 1 == 2" in first[0]["why"]
    tests.write_text("def test_a():\n    pass\n\n\ndef test_b():\n    raise\n\n\ndef test_c():\n    pass\n")
    assert on_a_gpu.tests(given, str(tests))
    assert [row["case"].split("::")[1] for row in rows_of(Path(rows.file))[2:]] == ["test_c", "test_a"]
    assert on_a_gpu.tests(given, str(tests))
    assert len(rows_of(Path(rows.file))) == 4


def test_a_case_that_fails_is_a_row_and_the_others_are_measured(tmp_path: Path) -> None:
    def broken() -> list[dict[str, Any]]:
        raise RuntimeError("no such instruction")

    rows = Rows(str(tmp_path / "it.jsonl"), "flash", None, True)
    cases = [("a", broken), ("b", lambda: [{"seconds": 1.0}])]
    assert not on_a_gpu.take(rows, cases)
    assert rows.passed() == {"a": False, "b": True}
    assert rows_of(Path(rows.file))[0]["why"] == "RuntimeError: no such instruction"
    order: list[str] = []
    more = [(name, lambda name=name: order.append(name) or [{}]) for name in "abc"]
    assert on_a_gpu.take(rows, more)
    assert order == ["c", "a"]


@pytest.mark.parametrize("other", [{"gpu": "NVIDIA H200"}, {"part": "long"}, {"tiny": False}], ids=str)
def test_rows_of_another_gpu_part_or_size_are_others(tmp_path: Path, other: dict[str, Any]) -> None:
    rows = Rows(str(tmp_path / "it.jsonl"), "flash", "NVIDIA H100", True)
    rows.add("a", {})
    assert rows.passed() == {"a": True}
    assert replace(rows, **other).passed() == {}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["kernels"], "PyTorch finds no CUDA device"),
        (["kernels", "--device", "cpu"], "full sizes need a GPU"),
        (["kernel"], "invalid choice: 'kernel'"),
    ],
)
def test_what_cannot_be_measured_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    try:
        status = on_a_gpu.main([*words, "--json", str(tmp_path / "it.jsonl")])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "it.jsonl").exists()


def test_parts_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        on_a_gpu.main(["--parts"])
    assert end.value.code == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()][:-1] == list(on_a_gpu.PARTS)


def test_rows_are_json(tmp_path: Path) -> None:
    """Any reader takes them."""
    rows = Rows(str(tmp_path / "it.jsonl"), "flash", None, True)
    rows.add("a", {"seconds": 1.5})
    (line,) = Path(rows.file).read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["seconds"] == 1.5


def test_cases_and_tests_are_shared_by_processes(tmp_path: Path) -> None:
    """Each is measured by one of them, whatever the others have measured meanwhile."""
    file, names = tmp_path / "it.jsonl", ["a", "b", "c", "d", "e"]
    tests = tmp_path / "test_it.py"
    tests.write_text("".join(f"def test_{name}():\n    pass\n\n\n" for name in names))
    for first in (1, 0):
        rows = Rows(str(file), "kernels", None, True, first, 2)
        assert on_a_gpu.take(rows, [(name, lambda: [{}]) for name in names])
        assert on_a_gpu.tests(on_a_gpu.Given(rows, "cpu", True, tmp_path, []), str(tests))
    expected = ["b", "d", "test_b", "test_d", "a", "c", "e", "test_a", "test_c", "test_e"]
    assert [row["case"].split("::")[-1] for row in rows_of(file)] == expected
    with pytest.raises(SystemExit):
        on_a_gpu.parse(["kernels", "--json", "x", "--share", "4/4"])


def test_the_script_finds_what_it_uses_by_itself(tmp_path: Path) -> None:
    """It once found the tests' helpers only inside pytest, which has them on its path; and on a GPU no seekr, which was
    not installed there."""
    code = f"import sys; sys.path.insert(0, {str(on_a_gpu.ROOT / 'benchmarks')!r}); import on_a_gpu\n"
    code += "sys.path[:0] = on_a_gpu.PATHS; import gpu_kernels, launches"
    libraries = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}  # by -S without what is installed by a link
    subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, env=libraries, check=True)
