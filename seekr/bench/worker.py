"""One process of the step bench: a model, a replay batch, and a step whenever a line arrives on stdin."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

SAMPLES = 2
LAYERS, HEADS, WIDTH = 8, 8, 512
CHOSEN = dict.fromkeys(range(2, 8), (0, 2, 4, 6))  # 24 heads in 6 layers


def _config() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=8192,
        hidden_size=WIDTH,
        intermediate_size=1376,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=8192,
    )


def _samples(length: int) -> list[Any]:
    import numpy as np

    from seekr.memory import KeptSample

    rng = np.random.default_rng(0)
    samples = []
    for _ in range(SAMPLES):
        ids = rng.integers(3, 8192, length).astype(np.int32)
        labels = ids.copy()
        labels[: length // 2] = -100
        samples.append(KeptSample(ids, labels))
    return samples


def _model(seed: int) -> Any:
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(_config())


def remember(folder: Path, length: int, queries: int | None) -> None:
    """What an earlier model left of the batch, in the form that a run would keep."""
    import numpy as np
    import torch

    from seekr.attention.rows import QueryKeyRows
    from seekr.attention.tap import Tap, model_inputs
    from seekr.batches import collate
    from seekr.losses import answer_positions, logits_at
    from seekr.memory_writer import MemoryWriter
    from seekr.methods import Seekr

    method = Seekr(query_budget=queries)
    model = _model(1).eval()
    heads = {layer: torch.tensor(chosen) for layer, chosen in CHOSEN.items()}
    samples = _samples(length)
    writer = MemoryWriter(folder, samples, task="bench", tokenizer_fingerprint="", model_fingerprint="", heads=heads)
    draw = np.random.default_rng(0)
    with torch.no_grad():
        for place, sample in enumerate(samples):
            batch = collate([sample], 0)
            positions = method.drawn_queries(length, draw)
            asked = answer_positions(batch["labels"])
            with Tap(model, heads) as tap:
                logits = logits_at(model, model_inputs(batch), *asked)
            attention = {
                layer: QueryKeyRows.of_call(tap.calls[layer], 0, (0, length), chosen, positions)
                for layer, chosen in heads.items()
            }
            writer.add(place, attention=attention, positions=positions, logits=method.stored_logits(logits))
    writer.close()


def _serve(folder: Path, length: int, path: str) -> None:
    """The worker: one line of JSON when ready, then one a step."""
    import torch

    from seekr.batches import MicroBatch, collate
    from seekr.memory import Memory
    from seekr.methods import Derpp, Seekr

    torch.set_num_threads(2)
    model = _model(0).train()
    memory = Memory.open(folder, verify=False)
    batch = collate(_samples(length), 0)
    labels = batch.pop("labels")
    rows = [(0, sample) for sample in range(SAMPLES)]
    tokens = int((labels != -100).sum())
    micro_batch = MicroBatch("replay", batch, labels, torch.ones(SAMPLES), rows, tokens, rows)
    method = Seekr() if path == "seekr" else Derpp()
    method.memories = [memory]
    maps = _built_maps(batch) if path == "eager" else {}
    if path == "eager":
        model.set_attn_implementation("eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95))
    before = _resident("VmRSS")
    _reset_peak()
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        parts = _eager_parts(model, method, micro_batch, maps) if maps else method.replay_loss(model, micro_batch)
        torch.stack(list(parts.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "peak_bytes": _resident("VmHWM") - before}), flush=True)


def _built_maps(batch: dict[str, Any]) -> dict[int, Any]:
    """The teacher's maps of the chosen heads in bfloat16, [samples, heads, length, length], as the released code keeps
    them."""
    import torch

    model = _model(1).eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(**batch, use_cache=False, output_attentions=True).attentions
    return {layer: maps[layer][:, list(chosen)].to(torch.bfloat16) for layer, chosen in CHOSEN.items()}


def _eager_parts(model: Any, method: Any, batch: Any, maps: dict[int, Any]) -> dict[str, Any]:
    import torch

    output = model(**batch.inputs, use_cache=False, output_attentions=True)
    parts = method.logit_parts(output.logits[method.asked(batch.labels)], batch)
    losses = []
    for layer, teacher in maps.items():
        teacher = teacher.float()
        student = output.attentions[layer][:, list(CHOSEN[layer])]
        losses.append((teacher * ((teacher + 1e-8).log() - (student + 1e-8).log())).sum(dim=-1).mean())
    return parts | {"attention": 1000 * torch.stack(losses).mean()}


def _resident(field: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (high-water mark) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this system does not report {field}; the bench runs on Linux")


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
