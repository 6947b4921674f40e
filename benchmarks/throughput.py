"""Tokens of the new task a second: seekr's plain fine-tuning compared with TRL's SFTTrainer.

    pip install -e '.[bench]' -c constraints.txt
    python benchmarks/throughput.py --json benchmarks/results/throughput.json [--rounds 5]

One random Llama of 7 million parameters learns the same 64 rows in every process: float32, two threads, AdamW, steps of
16 rows, loss on the answers alone, no gradient checkpointing, no log but each trainer's own. The rows have 20 to 512
tokens, most of them few (log-normal, median 100); a quarter of them are answers, or all. Each trainer is a process of
its own; they train epochs in turn, the first of which is not counted. A figure is the median over the rounds of (prompt
and answer tokens of the rows) / (seconds of the epoch, collation and optimizer included), its ratio that to the fastest
of TRL's in the same round. Peak memory is the process's, over what it held before training.

TRL runs at its defaults (`chunked_nll`, which goes over all positions where there is no Triton), with rows grouped by
length, padding-free, and packed into rows of 512 tokens, as many of them in a micro-batch as make the same tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from seekr.bench.task_step import LONGEST, ragged_lengths

ROWS, BATCH, VOCABULARY = 64, 16, 8192
TRAINERS: dict[str, dict[str, Any]] = {
    "seekr": {},
    "TRL": {},
    "TRL, grouped by length": {"train_sampling_strategy": "group_by_length"},
    "TRL, padding-free": {"padding_free": True},
    "TRL, packed": {"packing": True, "max_length": LONGEST},
}
CASES = ((4, 4, 0.25), (16, 1, 0.25), (4, 4, 1.0))
"""Rows of a micro-batch, micro-batches of a step, and the share of a row's tokens that are answers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the measurements are written")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", nargs=3, metavar=("TRAINER", "ROWS", "ANSWERS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        trainer, micro_batch, answers = arguments.worker
        serve(trainer, int(micro_batch), float(answers), arguments.rounds)
        return
    from seekr.bench import describe_machine

    rows = [row for case in CASES for row in compare(*case, arguments.rounds)]
    if arguments.json:
        machine = describe_machine() | {"threads": int(_THREADS["OMP_NUM_THREADS"])}
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


def compare(micro_batch: int, accumulation: int, answers: float, rounds: int) -> list[dict[str, Any]]:
    """A row for each trainer: tokens a second, its ratio to the best of TRL in the same round, peak bytes."""
    with workers(micro_batch, answers, rounds) as trainers:
        speeds: dict[str, list[float]] = {name: [] for name in trainers}
        work: dict[str, list[float]] = {name: [] for name in trainers}
        peaks: dict[str, int] = {}
        for number in range(rounds + 1):
            for name, process in trainers.items():
                found = turn(process)
                if number:
                    speeds[name].append(found["tokens"] / found["seconds"])
                    work[name].append(found["tokens"] / found["processor_seconds"])
                    peaks[name] = found["peak_bytes"]
    best = [max(speeds[name][i] for name in speeds if name != "seekr") for i in range(rounds)]
    rows = []
    for name, found in speeds.items():
        row = {"trainer": name, "micro_batch": micro_batch, "accumulation": accumulation, "answers": answers}
        row |= {"tokens_per_second": median(found), "all_tokens_per_second": [round(speed, 1) for speed in found]}
        row |= {"tokens_per_processor_second": median(work[name])}
        row |= {"ratio": median(one / other for one, other in zip(found, best, strict=True)), "peak_bytes": peaks[name]}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


_THREADS = {"OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false"}


@contextmanager
def workers(micro_batch: int, answers: float, rounds: int) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A process for each trainer, which trains an epoch whenever it is asked to."""
    started: dict[str, subprocess.Popen[str]] = {}
    try:
        for name in TRAINERS:
            case = [name, str(micro_batch), str(answers)]
            command = [sys.executable, __file__, "--rounds", str(rounds), "--worker", *case]
            started[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | _THREADS
            )
        yield started
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def turn(process: subprocess.Popen[str]) -> dict[str, Any]:
    """One epoch of a trainer."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("epoch\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith('{"seconds"'):
            return dict(json.loads(line))
    raise RuntimeError(f"a trainer ended early with status {process.wait()}")


def serve(trainer: str, micro_batch: int, answers: float, rounds: int) -> None:
    """A worker: one line of JSON for each epoch that is asked for on stdin."""
    from transformers import TrainerCallback

    from seekr.bench.meters import held_bytes, peak_bytes, reset_peak

    data = rows(answers)
    tokens = sum(len(ids) for ids, _ in data)

    class Turns(TrainerCallback):
        """Waits before each epoch and tells what it took."""

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.before = held_bytes("cpu")
            reset_peak("cpu")

        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            sys.stdin.readline()
            self.start, self.processor = time.perf_counter(), time.process_time()

        def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
            line = {
                "seconds": time.perf_counter() - self.start,
                "processor_seconds": time.process_time() - self.processor,
                "tokens": tokens,
                "peak_bytes": peak_bytes("cpu") - self.before,
            }
            print(json.dumps(line), flush=True)

    settings = {
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": BATCH // micro_batch,
        "num_train_epochs": rounds + 1,
        "learning_rate": 1e-5,
        "save_steps": 10**6,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "bf16": False,
        "logging_steps": 10,
    }
    with tempfile.TemporaryDirectory(prefix="seekr-throughput-") as folder:
        build = of_seekr if trainer == "seekr" else of_trl
        build(data, Path(folder), settings | TRAINERS[trainer], Turns()).train()


def rows(answers: float) -> list[tuple[list[int], int]]:
    """(token ids, prompt tokens) of each row."""
    import numpy as np

    draw = np.random.default_rng(0)
    lengths = ragged_lengths(draw, ROWS)
    return [(draw.integers(3, VOCABULARY, length).tolist(), int(length * (1 - answers))) for length in lengths]


def model() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LONGEST,
    )
    return LlamaForCausalLM(config)


def of_seekr(data: list[tuple[list[int], int]], folder: Path, settings: dict[str, Any], turns: Any) -> Any:
    """seekr's trainer, as a run of the method sequential makes it."""
    import numpy as np

    from seekr.config.training_arguments import training_arguments
    from seekr.memory.reader import KeptSample
    from seekr.methods import Objective, Sequential
    from seekr.training.trainer import ContinualTrainer

    samples = []
    for ids, prompt in data:
        tokens = np.array(ids, dtype=np.int32)
        samples.append(KeptSample(tokens, np.where(np.arange(len(ids)) < prompt, -100, tokens).astype(np.int32)))
    return ContinualTrainer(
        model(),
        training_arguments(settings, output_dir=folder, seed=0),
        losses=Objective(Sequential()),
        train_samples=samples,
        task_name="throughput",
        task_index=0,
        log_path=folder / "log.jsonl",
        pad_token_id=0,
        callbacks=[turns],
    )


def of_trl(data: list[tuple[list[int], int]], folder: Path, settings: dict[str, Any], turns: Any) -> Any:
    """TRL's trainer on the same rows, already tokenized."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from seekr.builtin import builtin_model

    common = {"output_dir": str(folder), "report_to": "none", "completion_only_loss": True, "max_length": None}
    if settings.get("packing"):  # a micro-batch of as many tokens, in rows of LONGEST
        share = sum(len(ids) for ids, _ in data) / len(data) / LONGEST
        common["per_device_train_batch_size"] = max(1, round(share * settings.pop("per_device_train_batch_size")))
    masks = [[int(place >= prompt) for place in range(len(ids))] for ids, prompt in data]
    return SFTTrainer(
        model(),
        args=SFTConfig(**{**common, **settings}),
        train_dataset=Dataset.from_dict({"input_ids": [ids for ids, _ in data], "completion_mask": masks}),
        processing_class=AutoTokenizer.from_pretrained(builtin_model()),
        callbacks=[turns],
    )


if __name__ == "__main__":
    main()
