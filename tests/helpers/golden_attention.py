"""The golden numbers of attention: a Llama, its maps and every measure from their definitions, in float64.

Nothing of seekr, nothing of transformers: weights and tokens come from numpy's frozen stream of a seed, the model is
written out below, gradients are autograd's. `python tests/helpers/golden_attention.py` writes tests/golden/attention.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

FOLDER = Path(__file__).parents[1] / "golden" / "attention"
VOCABULARY, EPSILON, THETA = 96, 1e-6, 10000.0
ANSWER = 7  # tokens of each sample's answer


@dataclass(frozen=True)
class Shape:
    seed: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    inner: int
    length: int
    left_lengths: tuple[int, ...]
    layer_budget: int
    head_budget: int


SHAPES = {
    "mha": Shape(12, 3, 4, 4, 32, 48, 23, (23, 17, 12), 2, 5),
    "gqa": Shape(12, 4, 8, 2, 64, 80, 37, (37, 30, 26, 19), 3, 9),
}


def llama_config(shape: Shape) -> dict[str, Any]:
    """Arguments of transformers' LlamaConfig for the model that is written out here."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 64,
        "rms_norm_eps": EPSILON,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }


def weights_of(shape: Shape) -> dict[str, dict[str, Tensor]]:
    """before, after, student → parameters under transformers' names, rounded to float32, held in float64."""
    stream = np.random.RandomState(shape.seed)
    head = shape.hidden // shape.heads
    sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, shape.hidden)}
    for layer in range(shape.layers):
        name = f"model.layers.{layer}"
        sizes |= {
            f"{name}.self_attn.q_proj.weight": (shape.hidden, shape.hidden),
            f"{name}.self_attn.k_proj.weight": (shape.kv_heads * head, shape.hidden),
            f"{name}.self_attn.v_proj.weight": (shape.kv_heads * head, shape.hidden),
            f"{name}.self_attn.o_proj.weight": (shape.hidden, shape.hidden),
            f"{name}.mlp.gate_proj.weight": (shape.inner, shape.hidden),
            f"{name}.mlp.up_proj.weight": (shape.inner, shape.hidden),
            f"{name}.mlp.down_proj.weight": (shape.hidden, shape.inner),
            f"{name}.input_layernorm.weight": (shape.hidden,),
            f"{name}.post_attention_layernorm.weight": (shape.hidden,),
        }
    sizes |= {"model.norm.weight": (shape.hidden,), "lm_head.weight": (VOCABULARY, shape.hidden)}
    before = {name: _drawn(stream, size) for name, size in sizes.items()}
    after = {name: weight + 0.15 * _noise(stream, weight) for name, weight in before.items()}
    student = {name: weight + 0.05 * _noise(stream, weight) for name, weight in after.items()}
    triple = {"before": before, "after": after, "student": student}
    return {
        who: {name: torch.from_numpy(weight).float().double() for name, weight in weights.items()}
        for who, weights in triple.items()
    }


def _drawn(stream: np.random.RandomState, size: tuple[int, ...]) -> np.ndarray:
    drawn = stream.standard_normal(size)
    return 1 + 0.1 * drawn if len(size) == 1 else 1.5 * drawn / np.sqrt(size[1])  # maps far from uniform


def _noise(stream: np.random.RandomState, weight: np.ndarray) -> np.ndarray:
    return weight.std() * stream.standard_normal(weight.shape)


def batches_of(shape: Shape) -> dict[str, Tensor]:
    """Token ids, masks and labels of whole samples and of left-padded ones, and chosen queries of each sample."""
    stream = np.random.RandomState(shape.seed + 100)
    samples = len(shape.left_lengths)
    ids = torch.from_numpy(stream.randint(3, VOCABULARY, (samples, shape.length)))
    labels = ids.clone()
    labels[:, : shape.length - ANSWER] = -100
    padded, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, length in enumerate(shape.left_lengths):
        padded[row, shape.length - length :] = ids[row, shape.length - length :]
        mask[row, shape.length - length :] = 1
    queries = [np.sort(stream.permutation(shape.length)[:6]) for _ in range(samples)]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "left_padded_input_ids": padded,
        "left_padded_attention_mask": mask,
        "queries": torch.from_numpy(np.stack(queries)),
    }


def forward(shape: Shape, weights: dict[str, Tensor], ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits [n, vocabulary] and each layer's map [heads, n, n] of one sample [n] without padding; differentiable."""
    length, head = len(ids), shape.hidden // shape.heads
    state = weights["model.embed_tokens.weight"][ids]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    maps = []
    for layer in range(shape.layers):
        own = {
            name.removeprefix(f"model.layers.{layer}.").removesuffix(".weight"): weight
            for name, weight in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        x = _normed(state, own["input_layernorm"])
        query, key, value = (
            (x @ own[f"self_attn.{name}_proj"].T).view(length, -1, head).transpose(0, 1) for name in "qkv"
        )
        key, value = (part.repeat_interleave(shape.heads // shape.kv_heads, 0) for part in (_turned(key), value))
        scores = _turned(query) @ key.transpose(1, 2) / head**0.5
        maps.append(scores.masked_fill(future, -torch.inf).softmax(-1))
        mixed = (maps[-1] @ value).transpose(0, 1).reshape(length, -1)
        state = state + mixed @ own["self_attn.o_proj"].T
        x = _normed(state, own["post_attention_layernorm"])
        gate = x @ own["mlp.gate_proj"].T
        state = state + (gate * gate.sigmoid() * (x @ own["mlp.up_proj"].T)) @ own["mlp.down_proj"].T
    return _normed(state, weights["model.norm.weight"]) @ weights["lm_head.weight"].T, maps


def _normed(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt()


def _turned(x: Tensor) -> Tensor:
    """Rotary positions: pairs (i, i + d/2) of [heads, n, d] turned by position · θ^(−2i/d)."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1]).double()[:, None] * THETA ** (-torch.arange(half).double() / half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)


def numbers_of(shape: Shape) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All golden tensors and facts of one triple of models."""
    weights, batch = weights_of(shape), batches_of(shape)
    rows, labels = list(batch["input_ids"]), batch["labels"]
    found: dict[str, dict[str, Any]] = {}
    for who, parameters in weights.items():
        leaves = {name: parameter.requires_grad_(who == "student") for name, parameter in parameters.items()}
        runs = [forward(shape, leaves, row) for row in rows]
        found[who] = {"logits": torch.stack([run[0] for run in runs]), "maps": [run[1] for run in runs]}
    tensors = {f"sensitivity_{name}": value for name, value in _sensitivities(shape, weights["after"], batch).items()}
    tensors |= {
        "forgettability": _change(found["before"]["maps"], found["after"]["maps"], frobenius=False),
        "forgettability_frobenius": _change(found["before"]["maps"], found["after"]["maps"], frobenius=True),
        "student_logits": found["student"]["logits"].detach(),
        "teacher_logits": found["after"]["logits"],
    }
    facts: dict[str, Any] = {
        "config": {"layer_budget": shape.layer_budget, "head_budget": shape.head_budget},
        "left_padded_lengths": list(shape.left_lengths),
    }
    for entries in ("all_entries", "visible"):
        tensors[f"importance_{entries}"] = tensors[f"sensitivity_{entries}"] * tensors["forgettability"]
        facts[f"selected_heads_{entries}"] = _selected(shape, tensors[f"importance_{entries}"])
    heads = facts["selected_heads_all_entries"]

    every = [list(range(shape.length))] * len(rows)
    attention = _distillation(found["student"]["maps"], found["after"]["maps"], heads, every)
    for layer in range(shape.layers):
        for name in ("q_proj", "k_proj"):
            leaf = weights["student"][f"model.layers.{layer}.self_attn.{name}.weight"]
            gradient = torch.autograd.grad(attention, leaf, retain_graph=True, allow_unused=True)[0]
            tensors[f"attention_loss_grad.layers.{layer}.{name}"] = (
                torch.zeros_like(leaf) if gradient is None else gradient
            )
    queries = _distillation(found["student"]["maps"], found["after"]["maps"], heads, batch["queries"].tolist())
    cut = [row[shape.length - length :] for row, length in zip(rows, shape.left_lengths, strict=True)]
    short = {who: [forward(shape, weights[who], row)[1] for row in cut] for who in ("student", "after")}
    left = _distillation(short["student"], short["after"], heads, [list(range(len(row))) for row in cut])

    student, teacher = found["student"]["logits"], found["after"]["logits"]
    answers = labels[:, 1:] != -100
    replay = functional.cross_entropy(student[:, :-1][answers], labels[:, 1:][answers])
    predicting = _logit_distillation(student[:, :-1][answers], teacher[:, :-1][answers])
    at_labels = _logit_distillation(student[:, 1:][answers], teacher[:, 1:][answers])
    facts |= {
        "attention_distillation_loss": attention.item(),
        "attention_distillation_loss_queries": queries.item(),
        "attention_distillation_loss_left_padded": left.item(),
        "replay_loss": replay.item(),
        "logit_distillation_loss_predicting_positions": predicting.item(),
        "logit_distillation_loss_label_positions": at_labels.item(),
        "total_loss_w0.5_1000": (0.5 * replay + 0.5 * at_labels + 1000 * attention).item(),
    }
    return tensors, facts


def _distillation(student: list[Any], teacher: list[Any], heads: dict[str, list[int]], queries: Any) -> Tensor:
    """KL of the teacher's rows to the student's: mean over samples, layers, then (head, query)."""
    samples = []
    for own, other, chosen in zip(student, teacher, queries, strict=True):
        layers = []
        for layer, kept in heads.items():
            p, q = other[int(layer)][kept][:, chosen], own[int(layer)][kept][:, chosen]
            seen = p > 0
            layers.append(torch.where(seen, p * (p.where(seen, 1).log() - q.where(seen, 1).log()), 0).sum(-1).mean())
        samples.append(torch.stack(layers).mean())
    return torch.stack(samples).mean()


def _sensitivities(shape: Shape, weights: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Norms of ∂ℓ/∂A, mean over samples, with and without each layer's row divided by its sum; [layers, heads]."""
    per_sample: dict[str, list[Tensor]] = {}
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        logits, maps = forward(shape, leaves, ids)
        answers = labels[1:] != -100
        loss = functional.cross_entropy(logits[:-1][answers], labels[1:][answers])
        gradient = torch.stack(torch.autograd.grad(loss, maps))
        for entries, kept in (("all_entries", gradient), ("visible", gradient.tril())):
            squares = kept.square()
            per_sample.setdefault(entries, []).append(squares.mean((-2, -1)))
            per_sample.setdefault(f"frobenius_{entries}", []).append(squares.sum((-2, -1)).sqrt())
    means = {name: torch.stack(values).mean(0) for name, values in per_sample.items()}
    found = {name: mean / mean.sum(1, keepdim=True) for name, mean in means.items()}
    return found | {f"{name}_unnormalized": means[name] for name in ("all_entries", "visible")}


def _change(before: list[Any], after: list[Any], *, frobenius: bool) -> Tensor:
    squares = [(torch.stack(new) - torch.stack(old)).square() for old, new in zip(before, after, strict=True)]
    measure = [s.sum((-2, -1)).sqrt() if frobenius else s.mean((-2, -1)) for s in squares]
    return torch.stack(measure).mean(0)


def _selected(shape: Shape, importance: Tensor) -> dict[str, list[int]]:
    """Heads by the two budgets: the layers of the largest sums, then the largest heads of all of them."""
    sums = importance.sum(1).tolist()
    layers = sorted(sorted(range(shape.layers), key=lambda layer: -sums[layer])[: shape.layer_budget])
    pairs = [(float(importance[layer, head]), layer, head) for layer in layers for head in range(shape.heads)]
    ranked = sorted(pairs, reverse=True)
    last, first_left_out = ranked[shape.head_budget - 1][0], ranked[shape.head_budget][0]
    assert last > 1.01 * first_left_out, "a choice that rounding could turn; take another seed"
    kept = sorted((layer, head) for _, layer, head in ranked[: shape.head_budget])
    return {str(layer): [head for at, head in kept if at == layer] for layer in dict.fromkeys(at for at, _ in kept)}


def _logit_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    return -(teacher.softmax(-1) * student.log_softmax(-1)).sum(-1).mean()


def main() -> None:
    for name, shape in SHAPES.items():
        folder = FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        tensors, facts = numbers_of(shape)
        save_file(
            {key: tensor.detach().float().contiguous() for key, tensor in tensors.items()},
            folder / "golden.safetensors",
        )
        (folder / "golden.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
