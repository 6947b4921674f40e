"""Methods compared on a base model and a suite of tasks: one run, and one line of JSON, a method and seed.

    python benchmarks/study.py --base MODEL_FOLDER --suite smol6 --data DATA --output DIR --json results.jsonl \\
        --methods sequential derpp seekr --seeds 0 1 2 --split eval --threads 1 --set method.replay_ratio=0.05

What stands in the JSON is not measured again, and a run that was stopped goes on. The same command may be given several
times at once, with one thread each: every run is taken by one process. `--base builtin` is the demo's model.
`--set KEY=VALUE` takes `method.`, `training.`, `lora.` and `suite.` keys and wins over what suite and method say.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from json_rows import add, commit, rows_of
from study_measures import Clock, general_ability, kept_bytes, peak_memory, reset_peak_memory, steps_and_weights
from study_methods import LABELS, check_changes, resolve
from study_suites import SUITES, Split, Suite, general_rows, write_tasks
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import TrainerCallback

from seekr import Run
from seekr.bench import describe_machine
from seekr.builtin import builtin_model
from seekr.errors import InputError, nearest
from seekr.modeling.loading import load_tokenizer
from seekr.runs.learn import learn


@dataclass(frozen=True)
class Planned:
    """One run: what it is, in the words of its row, and where its files are."""

    key: dict[str, Any]
    suite: Suite
    base: Path
    data: Path
    output: Path

    @property
    def folder(self) -> Path:
        """The run and what is measured of it; the name says what was asked for, not what this version makes of it."""
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:8]
        key = self.key
        return self.output / f"{key['base']}-{key['suite']}" / f"{key['method']}-{key['seed']}-{key['split']}-{digest}"


def main(words: list[str] | None = None) -> None:
    arguments = parser(__doc__).parse_args(words)

    def measure_once(run: Planned) -> None:
        if not measured(run.key, arguments.json):  # meanwhile, by another process
            add(measure(run), arguments.json)
            drop_weights(run.folder)

    with told("study"):
        runs = plan(arguments)
        left = [run for run in runs if not measured(run.key, arguments.json)]
        print(f"{len(runs)} runs, {len(runs) - len(left)} of them measured before", file=sys.stderr)
        for_each(left, measure_once, arguments)


@contextmanager
def told(name: str) -> Iterator[None]:
    """What a person got wrong ends the command with a line."""
    try:
        yield
    except InputError as error:
        raise SystemExit(f"{name}: {error}") from None


def for_each(runs: list[Planned], work: Callable[[Planned], None], arguments: argparse.Namespace) -> None:
    """Works on the runs that no other process has taken, computing as `arguments` say."""
    torch.set_num_threads(arguments.threads)
    # On a CPU the backward of its flash attention takes twice the time of plain matrix products in bfloat16.
    with sdpa_kernel(SDPBackend.MATH) if arguments.device == "cpu" else nullcontext():
        for run in runs:
            with claimed(run.folder) as mine:
                if mine:
                    work(run)
                else:
                    print(f"another process is at work on {run.folder}", file=sys.stderr)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The words that say which runs are meant."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="model folder, or builtin")
    parser.add_argument("--suite", required=True, choices=SUITES)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True, help="JSON Lines; rows are added")
    parser.add_argument("--methods", nargs="+", required=True, help=", ".join(LABELS))
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--split", choices=["eval", "test"], default="eval")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def plan(arguments: argparse.Namespace) -> list[Planned]:
    """Every run that was asked for, seed by seed. Raises InputError before anything is trained."""
    for label in arguments.methods:
        if label not in LABELS:
            raise InputError(f"--methods: there is no {label!r}; {nearest(label, LABELS)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here")
    changes = dict(_change(word) for word in arguments.set)
    check_changes(changes, arguments.methods)
    of_suite = {key.removeprefix("suite."): value for key, value in changes.items() if key.startswith("suite.")}
    suite = SUITES[arguments.suite].changed(of_suite)
    common = {f"method.{key}": value for key, value in suite.method.items()}
    common |= {f"training.{key}": value for key, value in suite.training.items()}
    changes = {key: value for key, value in changes.items() if not key.startswith("suite.")}
    base = Path(builtin_model()) if str(arguments.base) == "builtin" else arguments.base.absolute()
    runs = []
    for seed in arguments.seeds:
        for label in arguments.methods:
            settings = resolve(label, common, changes)
            settings["training"] |= {"use_cpu": arguments.device == "cpu"}
            key = {"base": arguments.base.name, "suite": arguments.suite, "method": label, "seed": seed}
            key |= {"split": arguments.split, "settings": settings, "rows_drawn": _described(suite)}
            runs.append(Planned(key, suite, base, arguments.data.absolute(), arguments.output.absolute()))
    return runs


def learned(run: Planned, *callbacks: TrainerCallback) -> tuple[Run, dict[str, dict[str, int]]]:
    """Learns and scores one run, as far as that is still to do; and how many rows each task has and left out."""
    split: Split = run.key["split"]
    settings = run.key["settings"]
    print(f"{run.key['method']}, seed {run.key['seed']}, {split}: {run.folder}", file=sys.stderr, flush=True)
    tokenizer = load_tokenizer(str(run.base))
    where = run.output / "data" / run.key["suite"] / run.folder.name
    tasks, counts = write_tasks(run.suite, run.data, where, seed=run.key["seed"], split=split, tokenizer=tokenizer)
    found = learn(
        model=run.base,
        tasks=tasks,
        output_dir=run.folder / "run",
        method=settings["method"],
        training=settings["training"],
        lora=settings["lora"],
        max_length=run.suite.max_length,
        cells="paper",
        seed=run.key["seed"],
        callbacks=list(callbacks),
    )
    return found, counts


def measure(run: Planned) -> dict[str, Any]:
    """Learns and scores one run, as far as that is still to do, and describes it."""
    reset_peak_memory()
    clock = Clock(run.folder / "clock.json")
    found, counts = learned(run, clock)
    seconds = clock.seconds(found)
    gc.collect()
    rows = general_rows(run.suite, run.data, load_tokenizer(str(run.base)))
    general = general_ability(found, rows, run.folder / "general.json", bf16=_is_bf16(run.key["settings"]))
    scores = found.scores
    own = {
        "overall_performance": scores.overall_performance,
        "backward_transfer": scores.backward_transfer,
        "forgetting": scores.forgetting,
        "tasks": scores.tasks,
        "last_row": scores.matrix[-1],
        "when_learned": [scores.matrix[i][i] for i in range(len(scores.tasks))] if len(found.stages) > 1 else None,
        "general": general,
        "seconds": seconds,
        "kept_bytes": kept_bytes(found),
        **steps_and_weights(found),
        "peak_bytes": peak_memory(),
        "rows": counts,
    }
    return {**run.key, **own, **made_by(found)}


def made_by(run: Run) -> dict[str, Any]:
    """What a row says of the code, the machine, the model and its tokenizer."""
    prints = {key: run.record[key] for key in ("model_fingerprint", "tokenizer_fingerprint")}
    return {"commit": commit(), "machine": describe_machine(), **prints}


def measured(wanted: dict[str, Any], file: Path) -> bool:
    """Whether the JSON has a row of this key. A setting that the row's version did not have yet may have any value."""
    flat = _flat(wanted)
    for row in rows_of(file):
        there = _flat({key: row[key] for key in wanted if key in row})
        if all(flat.get(key, "gone") == value for key, value in there.items()) and wanted.keys() <= row.keys():
            return True
    return False


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether the run is this process's; the system frees it when the process ends, in whatever way."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".claim").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def drop_weights(folder: Path) -> None:
    """The models of a measured run: scores, answers, logs and what is kept of the tasks stay."""
    for model in (folder / "run" / "stages").glob("*/model"):
        shutil.rmtree(model)


def _change(word: str) -> tuple[str, Any]:
    key, sign, value = word.partition("=")
    if not sign:
        raise InputError(f"--set {word}: not KEY=VALUE")
    number = yaml.safe_load(value)
    try:
        return key, float(number) if isinstance(number, str) else number  # YAML takes 5e-5 for a text
    except ValueError:
        return key, number


def _described(suite: Suite) -> dict[str, Any]:
    """What of a suite is not among the settings: the rows, and how they are scored."""
    described = json.loads(json.dumps(asdict(suite)))
    return {key: value for key, value in described.items() if key not in ("training", "method")}


def _is_bf16(settings: dict[str, Any]) -> bool:
    return bool(settings["training"].get("bf16"))


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {prefix: settings}
    return {key: value for name, item in settings.items() for key, value in _flat(item, f"{prefix}.{name}").items()}


if __name__ == "__main__":
    main()
