"""How fast test rows are answered: by transformers in padded batches, as seekr generates, and by vLLM.

    python benchmarks/answering.py --json benchmarks/results/answering.json [--model FOLDER] [--dtype bfloat16]

A random Llama of 25 million parameters (or a model of yours) answers 96 prompts of 20 to 400 tokens with up to 64
tokens each; on a GPU the model goes there. Each way is a process of its own, the two in turn, three rounds; times are
medians. Before the clock runs each has answered two prompts. The start is counted by itself: loading the model, and
with vLLM an engine's start, of which there is one for each model that is scored.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from random_model import OF_25_MILLION, write_random_model

WAYS = ("transformers", "vllm")
ROUNDS, PROMPTS, NEW_TOKENS = 3, 96, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--model", help="a folder or hub name in place of the random model")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        arguments.json.write_text(json.dumps(measure(arguments.worker, arguments.model, arguments.dtype)))
        return
    from seekr.bench import describe_machine

    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="seekr-bench-") as folder:
        model = arguments.model or str(Path(folder) / "model")
        if not arguments.model:
            write_random_model(Path(model), **OF_25_MILLION)
        for _ in range(ROUNDS):
            for way in WAYS:
                found = Path(folder) / "found.json"
                words = ["--json", str(found), "--model", model, "--dtype", arguments.dtype, "--worker", way]
                subprocess.run([sys.executable, __file__, *words], check=True)
                runs[way].append(json.loads(found.read_text()))
                print(f"{way}: {runs[way][-1]['seconds']:.2f} s", flush=True)
    expected = runs["transformers"][0]["answers"]
    rows = []
    for way in WAYS:
        same = sum(one == other for one, other in zip(runs[way][0]["answers"], expected, strict=True))
        medians = {key: median(run[key] for run in runs[way]) for key in ("start_seconds", "seconds")}
        rows.append({"way": way, **medians, "prompts": PROMPTS, "same_answers": same / PROMPTS})
    machine = describe_machine() | {"vllm": runs["vllm"][0]["version"]}
    arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


def measure(way: str, model: str, dtype: str) -> dict[str, Any]:
    """Seconds of the start and of the answers, and the answers."""
    import torch
    from transformers import AutoTokenizer

    from seekr.evaluation.vllm_engine import answering, check_vllm
    from seekr.modeling.generation import generate_tokens
    from seekr.modeling.loading import load_model

    tokenizer = AutoTokenizer.from_pretrained(model)
    drawn = np.random.default_rng(0)
    prompts = [drawn.integers(3, len(tokenizer), drawn.integers(20, 401)).astype(np.int32) for _ in range(PROMPTS)]
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    start = time.perf_counter()
    if way == "transformers":
        loaded = load_model(model, dtype=dtype).to(device)
        return _timed(
            lambda asked: generate_tokens(loaded, tokenizer, asked, max_new_tokens=NEW_TOKENS), prompts, start
        )
    length = 400 + NEW_TOKENS
    with answering(model, None, tokenizer, settings={}, dtype=dtype, length=length, device=device) as generate:
        found = _timed(lambda asked: generate(asked, NEW_TOKENS, lambda _: None), prompts, start)
    return found | {"version": check_vllm({}, model, dtype=dtype, length=length, lora=None, rank=0)}


def _timed(answer: Any, prompts: list[np.ndarray], start: float) -> dict[str, Any]:
    answer(prompts[:2])
    ready = time.perf_counter()
    answers = answer(prompts)
    return {"start_seconds": ready - start, "seconds": time.perf_counter() - ready, "answers": answers}


if __name__ == "__main__":
    main()
