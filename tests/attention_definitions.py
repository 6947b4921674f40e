"""What the attention measures are by definition: eager maps, autograd; nothing of seekr's own attention code."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

Batch = dict[str, Tensor]


def tiny_llama(**changes: object) -> LlamaForCausalLM:
    """A random Llama whose maps are far from uniform."""
    settings: dict[str, object] = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
    }
    return sharpened(LlamaForCausalLM(LlamaConfig(**settings | changes)))


def sharpened(model: nn.Module, factor: float = 5.0) -> nn.Module:
    """The model in eval mode with its matrices scaled up, as fresh weights make every map nearly uniform."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("sinks"):
                parameter.normal_()
            elif parameter.dim() > 1:
                parameter.mul_(factor)
    return model.eval()


def moved(model: nn.Module, size: float = 0.1) -> nn.Module:
    """A copy whose parameters moved by about `size` of their own spread."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
            parameter.add_(size * (spread or 0.1) * torch.randn_like(parameter))
    return other


def make_batch(lengths: Sequence[int], *, side: str = "right", vocabulary: int = 96, answers: int = 3) -> Batch:
    """Random tokens; the last `answers` tokens of each sample are its answer."""
    width = max(lengths)
    batch = {
        "input_ids": torch.zeros(len(lengths), width, dtype=torch.long),
        "attention_mask": torch.zeros(len(lengths), width, dtype=torch.long),
        "labels": torch.full((len(lengths), width), -100),
    }
    for row, span in enumerate(spans_of(lengths, side)):
        ids = torch.randint(3, vocabulary, (lengths[row],))
        batch["input_ids"][row, span] = ids
        batch["attention_mask"][row, span] = 1
        kept = min(answers, lengths[row] - 1)
        batch["labels"][row, span][lengths[row] - kept :] = ids[lengths[row] - kept :]
    return batch


def spans_of(lengths: Sequence[int], side: str) -> list[slice]:
    width = max(lengths)
    return [slice(0, n) if side == "right" else slice(width - n, width) for n in lengths]


def inputs_of(batch: Batch) -> Batch:
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "position_ids": positions,
    }


def eager(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    other.set_attn_implementation("eager")
    return other


def eager_maps(model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    """Maps [samples, heads, length, length] of each layer, differentiable; `model` must be eager."""
    return model(**inputs_of(batch), use_cache=False, output_attentions=True).attentions


def divergence(teacher: Tensor, student: Tensor, *, sink: bool = False) -> Tensor:
    """KL of rows [..., keys]; with a sink, what is missing of 1 is one more entry."""
    if sink:
        teacher, student = (torch.cat([p, 1 - p.sum(-1, keepdim=True)], -1) for p in (teacher, student))
    seen = teacher > 0
    ratio = torch.where(seen, teacher, 1).log() - torch.where(seen, student, 1).log()
    return (teacher * ratio).sum(-1)


def distillation_loss(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    spans: Sequence[slice],
    heads: Mapping[int, Sequence[int]],
    queries: Sequence[Sequence[int]] | None = None,
    *,
    sink: bool = False,
) -> Tensor:
    """Mean over samples, layers, then (head, query)."""
    samples = []
    for row, span in enumerate(spans):
        chosen = list(range(span.stop - span.start)) if queries is None else list(queries[row])
        layers = [
            divergence(
                teacher_maps[layer][row, list(kept), span, span][:, chosen],
                student_maps[layer][row, list(kept), span, span][:, chosen],
                sink=sink,
            ).mean()
            for layer, kept in heads.items()
        ]
        samples.append(torch.stack(layers).mean())
    return torch.stack(samples).mean()


def map_gradients(model: nn.Module, batch: Batch) -> list[Tensor]:
    """∂ℓ/∂A of each layer, [samples, heads, length, length]; ℓ is each sample's own mean over its answer tokens."""
    output = model(**inputs_of(batch), use_cache=False, output_attentions=True)
    losses = []
    for row, labels in enumerate(batch["labels"]):
        positions = (labels[1:] != -100).nonzero().flatten()
        losses.append(nn.functional.cross_entropy(output.logits[row, positions].float(), labels[positions + 1]))
    return list(torch.autograd.grad(torch.stack(losses).sum(), output.attentions))


def visible(length: int, window: int | None) -> Tensor:
    query, key = torch.arange(length)[:, None], torch.arange(length)[None, :]
    return (key <= query) & (query - key < (window or length))


def sensitivity(
    gradients: Sequence[Tensor],
    spans: Sequence[slice],
    windows: Sequence[int | None],
    entries: str,
    norm: str,
) -> Tensor:
    """Mean over samples, each layer's row then divided by its sum; [layers, heads]."""
    rows = []
    for gradient, window in zip(gradients, windows, strict=True):
        found = []
        for row, span in enumerate(spans):
            block = gradient[row, :, span, span].double()
            if entries == "visible":
                block = block * visible(block.shape[-1], window)
            squares = block.square()
            found.append(squares.sum((1, 2)).sqrt() if norm == "frobenius" else squares.mean((1, 2)))
        rows.append(torch.stack(found).mean(0))
    total = torch.stack(rows)
    return total / total.sum(1, keepdim=True)


def change(before: Sequence[Tensor], after: Sequence[Tensor], spans: Sequence[slice], norm: str) -> Tensor:
    rows = []
    for old, new in zip(before, after, strict=True):
        squares = [(new - old)[row, :, span, span].double().square() for row, span in enumerate(spans)]
        rows.append(
            torch.stack([s.sum((1, 2)).sqrt() if norm == "frobenius" else s.mean((1, 2)) for s in squares]).mean(0)
        )
    return torch.stack(rows)


def relative_error(found: Tensor, expected: Tensor, floor: float = 0.0) -> float:
    """Largest difference, as a share of the largest expected entry (or of `floor`, where that is larger)."""
    return float((found.double() - expected.double()).abs().max() / expected.abs().max().double().clamp_min(floor))


def gradient_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Largest relative error over parameters. Softmax ignores what all keys of a row share, so key biases get nothing
    but rounding; other gradients far below the largest one are measured by it."""
    expected = {name: gradient for name, gradient in expected.items() if not name.endswith("k_proj.bias")}
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    return max(relative_error(found[name], expected[name], 1e-3 * largest) for name in expected)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for name, p, g in zip(names, parameters, found, strict=True)}


def log_rows(
    query: Tensor,
    key: Tensor,
    positions: Tensor,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
    sink: Tensor | None = None,
) -> Tensor:
    """Log-probabilities [heads, queries, length (+ 1 for a sink)] in float64; query [heads, queries, d], key
    [heads, length, d], sink [heads]; −inf where not visible."""
    scores = scaling * query.double() @ key.double().transpose(1, 2)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    seen = visible(key.shape[1], window)[positions]
    scores = scores.masked_fill(~seen, float("-inf"))
    if sink is not None:
        scores = torch.cat([scores, sink.double()[:, None, None].expand(*scores.shape[:2], 1)], 2)
    return scores.log_softmax(-1)


def mean_divergence(log_teacher: Tensor, log_student: Tensor) -> Tensor:
    """Mean over (head, query) of KL; entries that the teacher does not see count 0."""
    seen = log_teacher.isfinite()
    difference = torch.where(seen, log_teacher, 0) - torch.where(seen, log_student, 0)
    return (torch.where(seen, log_teacher.exp(), 0) * difference).sum(-1).mean()
