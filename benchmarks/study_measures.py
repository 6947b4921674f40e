"""What `study.py` measures of a run in addition to its scores: general ability, seconds, bytes, steps."""

from __future__ import annotations

import gc
import json
import resource
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from study_suites import Rows
from transformers import TrainerCallback

from seekr import Run, Task
from seekr.data.encoding import encode_all
from seekr.data.reading import read_split
from seekr.disk.files import read_json, write_json
from seekr.methods import make_method
from seekr.methods.ewc import FILE as EWC
from seekr.modeling.generation import answer_likelihoods
from seekr.modeling.loading import load_tokenizer
from seekr.scoring.likelihood import likelihood

BATCH = 8


class Clock(TrainerCallback):
    """The seconds of each task's training, kept in a file: those of tasks that an earlier start has learned stay."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.began = self.start = time.time()
        self.whole = True
        self.training: list[dict[str, Any]] = read_json(file) if file.is_file() else []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = time.time()
        self.whole = state.global_step == 0

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        end = time.time()
        entry = {"stage": Path(args.output_dir).name, "end": end, "seconds": end - self.start if self.whole else None}
        self.training = [known for known in self.training if known["stage"] != entry["stage"]] + [entry]
        write_json(self.file, self.training)

    def seconds(self, run: Run) -> dict[str, float | None]:
        """Seconds of training, of keeping (measuring, teachers, saving) and of scoring; null where a stop fell in."""
        known = {entry["stage"]: entry for entry in self.training}
        total: dict[str, list[float | None]] = {"training": [], "keeping": [], "scoring": []}
        for place, stage in enumerate(run.stages):
            entry = known.get(stage.folder.name, {"seconds": None, "end": None})
            stands = (stage.folder / "stage.json").stat().st_mtime
            row = place if len(run.stages) > 1 else len(run.config.tasks) - 1
            answers = [path.stat().st_mtime for path in (run.folder / "predictions").glob(f"{row}-*.jsonl")]
            total["training"].append(entry["seconds"])
            total["keeping"].append(None if entry["end"] is None else stands - entry["end"])
            stopped = any(stands < start < max(answers, default=stands) for start in self.starts())
            total["scoring"].append(None if stopped else max(answers, default=stands) - stands)
        return {key: None if None in values else round(sum(values), 1) for key, values in total.items()}  # type: ignore[arg-type]

    def starts(self) -> list[float]:
        """When this and earlier processes began with the run."""
        file = self.file.with_name("starts.json")
        starts = read_json(file) if file.is_file() else []
        if self.began not in starts:
            starts.append(self.began)
            write_json(file, starts)
        return starts


def general_ability(run: Run, rows: Rows, file: Path, *, bf16: bool) -> list[float | None]:
    """100 · exp(−mean cross-entropy an answer token) of the base model and after every stage.

    No method sees these rows: a skill of the run would be kept, and replayed, by those that keep rows. Each number is
    in `file` as soon as it is known. None where a stage's weights are gone.
    """
    tokenizer = load_tokenizer(str(run.config.model))
    samples = encode_all(read_split(Task("general", train=rows, separator=""), "train", seed=0), tokenizer, None)
    known: dict[str, float | None] = read_json(file) if file.is_file() else {}
    method = make_method(dict(run.record["config"]["method"]))
    config = run.config
    device = "cpu" if config.training.get("use_cpu") or not torch.cuda.is_available() else "cuda"
    places = [None, *(stage.folder for stage in run.stages)]
    for number, stage in enumerate(places):
        name = "base" if stage is None else stage.name
        weights = None if stage is None else stage / "model"
        if name in known or (weights is not None and not weights.is_dir()):
            continue
        model = method.form.load(config.model, weights, dtype=config.dtype)
        method.form.tell_task(model, max(number - 1, 0))
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            known[name] = likelihood(
                answer_likelihoods(
                    model.to(device),
                    samples,
                    tokenizer.pad_token_id,
                    batch_size=BATCH,
                    inputs=partial(method.form.inputs_with_answers, model),
                )
            )
        write_json(file, known)
        del model
        gc.collect()
    return [known.get("base" if stage is None else stage.name) for stage in places]


def steps_and_weights(run: Run) -> dict[str, Any]:
    """Optimizer steps of each kind, and what the log says of the attention loss of replay steps: weight and share."""
    kinds: Counter[str] = Counter()
    weights, shares = [], []
    for stage in run.stages:
        log = stage.folder / "log.jsonl"
        for line in map(json.loads, log.read_text().splitlines() if log.is_file() else []):
            kinds[line["kind"]] += 1
            if line.get("attention_weight") is not None:
                weights.append(line["attention_weight"])
            if "attention" in (line.get("gradient_share") or {}):
                shares.append(line["gradient_share"]["attention"])
    return {
        "steps": dict(kinds),
        "attention_weight": _quantiles(weights),
        "attention_share": _quantiles(shares),
    }


def kept_bytes(run: Run) -> int:
    """Bytes of everything that stands in the stages in addition to weights, log and record: rows, teachers, tables, and
    the numbers with each weight that `ewc` writes next to the newest weights."""
    weights = run.stages[-1].folder / "model" / EWC
    return sum(path.stat().st_size for path in [weights] if path.is_file()) + sum(
        path.stat().st_size
        for stage in run.stages
        for path in stage.folder.rglob("*")
        if path.is_file()
        and stage.folder / "model" not in path.parents
        and path.name not in ("log.jsonl", "stage.json")
    )


def reset_peak_memory() -> None:
    """The peak is of one run, not of the process; only Linux can reset it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> dict[str, int | None]:
    """Bytes, of main memory and of the GPU (null without one)."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    main = peaks[0] if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"main": main, "gpu": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None}


def _quantiles(values: list[float]) -> dict[str, float] | None:
    """Median, 10th and 90th percentile; null of nothing."""
    if not values:
        return None
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return {"p10": round(float(low), 4), "median": round(float(middle), 4), "p90": round(float(high), 4)}
