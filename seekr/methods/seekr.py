"""SEEKR: replay and logit distillation, and the attention maps of the heads that matter are distilled too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seekr.attention.backend import divergence_on
from seekr.attention.change import measure_change_and_drift
from seekr.attention.distillation import attention_distillation_loss, weighted_attention_divergence
from seekr.attention.heads import Budget, ImportanceForm, head_importance, resolve_budgets, select_heads, spread_heads
from seekr.attention.rows import QueryKeyRows
from seekr.attention.sensitivity import Entries, Norm, normalize_layers, unnormalized_sensitivity
from seekr.attention.stored import TeacherForm, stored_bytes
from seekr.attention.support import attention_layers
from seekr.attention.tap import AttentionCall, Tap, head_size, layers_and_heads
from seekr.attention.weight import automatic_weight, drift_of, mean_known, weight_advice
from seekr.data.token_rows import TokenizedRow
from seekr.disk.regular import regular
from seekr.distributed.agreement import agreed
from seekr.distributed.processes import in_step, is_main, own_share, say_once, summed
from seekr.errors import InputError
from seekr.memory.reader import Memory
from seekr.methods.base import Objective, TaskContext, batch_of
from seekr.methods.costs import MEASURED_TOGETHER
from seekr.methods.derpp import Derpp, LogitReplay
from seekr.modeling.batches import MicroBatch, Row
from seekr.modeling.loading import measuring

AttentionWeight = Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"]
_IMPORTANCE = "importance.safetensors"


class Seekr(Derpp):
    """Selective attention-guided knowledge retention.

    A replay step's loss is that of `Derpp` plus attention_weight · mean over samples, their layers, heads and queries
    of KL(kept attention row || the model's).

    Args:
        attention_weight: λ2 of the paper, which has 1000 at 1% replay and 100 at 10%; "auto" = it follows
            from how far attention drifts, see `attention_weight.automatic_weight`.
        layer_budget: layers that may hold chosen heads; null = ¾ of the layers; "all".
        head_budget: chosen heads over all these layers; null = ⅛ of all heads; "all" of these layers.
        query_budget: random queries of each kept sample whose rows are distilled; null = every query.
        importance: "product_of_sums" = (Σ S)·(Σ F) (paper), "sum_of_products" = Σ S·F (released code); the paper's
            ablations "sensitivity" = Σ S, "change" = Σ F, and "random" heads, drawn by the run's seed for each task.
        norm: "frobenius" (paper) or "mean_square" (released code), for sensitivity and change.
        entries: "visible" (the map's own) or "all" (also above the diagonal, released code), for sensitivity.
        reduction: "per_sample" = mean over each sample's layers, then over samples; "per_layer" = mean over the samples
            that use a layer, then over the layers that any sample of the step uses (released code).
        teacher_form: how attention is kept: "exact", in few bits as "query_key", "rows" or "top" (a row's
            largest entries), or "auto" (exact where that is a trifle, else the smallest that keeps the gradient).

    Source: SEEKR, arXiv 2411.06171.
    """

    name = "seekr"
    free = Derpp.free | {"attention_weight", "reduction"}

    attention_weight: AttentionWeight = "auto"
    layer_budget: Budget = None
    head_budget: Budget = None
    query_budget: Annotated[int, Field(ge=1)] | None = 100
    importance: ImportanceForm = "product_of_sums"
    norm: Norm = "frobenius"
    entries: Entries = "visible"
    reduction: Literal["per_sample", "per_layer"] = "per_sample"
    teacher_form: TeacherForm = "auto"

    def check_model(self, model: nn.Module, max_length: int | None = None, tasks: int = 1) -> None:
        if self.reads_attention:
            self.check_attention(*layers_and_heads(model))

    def check_attention(self, layers: int, heads: int) -> None:
        resolve_budgets(layers, heads, self.layer_budget, self.head_budget)

    @property
    def reads_attention(self) -> bool:
        return True

    @property
    def measures(self) -> str:
        return "heads" if self.reads_attention else ""

    def check_kept(self, stages: Sequence[Path]) -> None:
        if self.reads_attention:
            for stage in stages:  # needed once the task is learned, and a loss is better reported before
                importance_of(stage)

    def start(self, context: TaskContext) -> Objective:
        if not self.reads_attention:
            return super().start(context)
        memories = context.memories()
        tables = [importance_of(stage).get("drift") for stage in context.stages]
        kept = [(table, memory.heads) for table, memory in zip(tables, memories, strict=False) if table is not None]
        drifts = [drift_of(*one) for one in kept]
        advice = [weight_advice(self.attention_weight, mean_known(drifts[:count])) for count in range(len(kept) + 1)]
        if advice[-1] and not any(advice[:-1]):
            say_once(f"task {context.task}: {advice[-1]}")
        if self.attention_weight:
            dtype = next(context.model.parameters()).dtype
            if torch.is_autocast_enabled(context.device.type):
                dtype = torch.get_autocast_dtype(context.device.type)
            # Kernels are compiled, or refused by all processes, before the first task is trained.
            agreed(lambda: divergence_on(context.device, dtype, head_size(context.model)))
        return AttentionReplay(self, memories, mean_known(drifts))

    def remember(self, context: TaskContext) -> None:
        if not self.reads_attention:
            super().remember(context)
            return
        samples = self.kept_samples(context)
        heads = self._choose(samples, context)
        draw = np.random.default_rng([context.seed, context.index, 1])
        # Of all samples, whoever remembers them: how they are shared out decides nothing.
        queries = [self.drawn_queries(len(sample.input_ids), draw) for sample in samples]
        writer = self.keep(samples, context, heads=heads, queries=queries, form=self.teacher_form)
        memory = Memory.open(context.folder / "memory", verify=False)
        writer.note(attention_floor=attention_floor(context.model, memory, context))

    def _choose(self, samples: Sequence[TokenizedRow], context: TaskContext) -> dict[int, Tensor]:
        """The heads whose attention is kept, layer by layer, and why: written with them."""
        measured = self.measure(samples, context)
        tasks = [*(importance_of(stage) for stage in context.stages), measured]
        importance = head_importance(
            [task["sensitivity"] for task in tasks],
            [task["change"] for task in tasks],
            form=self.importance,
            seed=(context.seed, context.index, 3),
        )
        with measuring(context.model):
            layers = attention_layers(context.model)
        importance[[layer for layer in range(len(importance)) if layer not in layers]] = 0  # drawn ones are not
        budgets = resolve_budgets(len(layers), importance.shape[1], self.layer_budget, self.head_budget)
        found = select_heads(importance[layers], layer_budget=budgets[0], head_budget=budgets[1])
        heads = {layers[place]: kept for place, kept in found.items()}
        if is_main():
            save_file(measured | {"importance": importance}, context.folder / _IMPORTANCE)
            chosen = {str(layer): kept.tolist() for layer, kept in heads.items()}
            (context.folder / "heads.json").write_text(json.dumps(chosen, indent=1) + "\n")
        return heads

    def measure(self, samples: Sequence[TokenizedRow], context: TaskContext) -> dict[str, Tensor]:
        """Sensitivity (each layer's row sums to 1), change and drift, means over the kept samples: [layers, heads] on
        the CPU. Each process measures its share of the samples.
        """
        shape = layers_and_heads(context.model)
        found = {name: torch.zeros(shape) for name in ("sensitivity", "change", "drift")}
        before = None if context.before is None else context.before()
        own, together = len(own_share(len(samples))), min(MEASURED_TOGETHER, context.micro_batch_rows)
        with context.track(f"measuring {context.task}", own) as advance:
            for places, counts in in_step(len(samples), together):
                batch = batch_of([samples[place] for place in places], context)
                share = len(places) / len(samples) if counts else 0
                with measuring(context.model):
                    one = unnormalized_sensitivity(context.model, batch, entries=self.entries, norm=self.norm)
                found["sensitivity"] += one.cpu() * share
                if before is not None:
                    change, drift = measure_change_and_drift(before, context.model, batch, norm=self.norm)
                    found["change"] += change.cpu() * share
                    found["drift"] += drift.cpu() * share
                advance(len(places) if counts else 0)
        found = {name: summed(table, context.device) for name, table in found.items()}
        return found | {"sensitivity": normalize_layers(found["sensitivity"])}

    def likely_attention(self, calls: Mapping[int, AttentionCall], tokens: int) -> dict[int, QueryKeyRows]:
        """The head budget spread evenly over its layers, each head with a key/value head of its own while there are
        any: which heads will be chosen is measured."""
        if not self.reads_attention or not calls:
            return {}
        layers = sorted(calls)
        budgets = resolve_budgets(len(layers), calls[layers[0]].query.shape[1], self.layer_budget, self.head_budget)
        drawn = self.drawn_queries(tokens, np.random.default_rng(0))
        positions, found = torch.arange(tokens) if drawn is None else drawn, {}
        for layer, heads in zip(layers[: budgets[0]], spread_heads(budgets[1], budgets[0]), strict=True):
            if heads:
                call, key_heads = calls[layer], min(heads, calls[layer].key.shape[1])
                query = call.query.new_empty((heads, len(positions), call.query.shape[-1]))
                key = call.key.new_empty((key_heads, tokens, call.key.shape[-1]))
                of_head = torch.arange(heads) % key_heads
                sink = None if call.sink is None else call.sink[:heads]
                found[layer] = QueryKeyRows(query, key, of_head, positions, call.geometry, sink)
        return found

    def attention_bytes(self, kept: Mapping[int, QueryKeyRows]) -> int:
        rows = next(iter(kept.values()), None)
        positions = 4 * len(rows.positions) if rows is not None and len(rows.positions) < rows.key.shape[1] else 0
        return positions + sum(stored_bytes(rows, self.teacher_form) for rows in kept.values())

    def drawn_queries(self, length: int, draw: np.random.Generator) -> Tensor | None:
        """The queries of a sample of `length` tokens that are distilled, ascending; None = every one."""
        if self.query_budget is None or self.query_budget >= length:
            return None
        return torch.from_numpy(np.sort(draw.choice(length, size=self.query_budget, replace=False)))


class AttentionReplay(LogitReplay):
    """The model is held to the attention maps of the kept rows too, by the `weight` of this task."""

    method: Seekr

    def __init__(self, method: Seekr, memories: Sequence[Memory], drift: float | None = None) -> None:
        setting = method.attention_weight
        super().__init__(method, memories, attention=bool(setting))
        self.weight = automatic_weight(drift) if setting == "auto" else float(setting)
        self.facts = {"replay": {"attention_weight": self.weight}} if self.weight else {}

    def replay_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        if not self.weight:
            return super().replay_loss(model, batch)
        counted = batch.rows[: len(batch.rows) - batch.fillers]
        if not counted:
            # Every micro-batch of a step names the same parts, those that only keep the ranks in step too.
            parts = super().replay_loss(model, batch)
            return parts | {"attention": 0 * parts["replay"]}
        layers = {layer for memory, _ in counted for layer in self.memories[memory].heads}
        with Tap(model, layers) as tap:
            parts = super().replay_loss(model, batch)
        teachers = {i: self.memories[m].attention(sample, batch.signals[i]) for i, (m, sample) in enumerate(counted)}
        weights = self.layer_weights(batch.step_rows)
        parts["attention"] = self.weight * weighted_attention_divergence(
            tap.calls,
            teachers,
            [(0, length) for length in batch.lengths],
            {(i, layer): weights[counted[i][0], layer] for i, one in teachers.items() for layer in one.heads},
        )
        return parts

    def layer_weights(self, step_rows: list[Row]) -> dict[tuple[int, int], float]:
        """(memory, layer) → weight of one sample's divergence in that layer, for all rows of an optimizer step."""
        samples = Counter(memory for memory, _ in step_rows)
        if self.method.reduction == "per_sample":
            heads = {memory: self.memories[memory].heads for memory in samples}
            return {(m, layer): 1 / (len(step_rows) * len(heads[m])) for m in samples for layer in heads[m]}
        uses = Counter[int]()
        for memory, count in samples.items():
            uses.update(dict.fromkeys(self.memories[memory].heads, count))
        return {(m, layer): 1 / (len(uses) * uses[layer]) for m in samples for layer in self.memories[m].heads}


def importance_of(stage: Path) -> dict[str, Tensor]:
    """What was measured of a stage's heads: name → [layers, heads]. Raises InputError where it cannot be read."""
    path, mend = stage / _IMPORTANCE, "restore it or learn the task again"
    try:
        about = path.stat()
        found = _tables(path, about.st_ino, about.st_size, about.st_mtime_ns)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {mend}") from None
    shapes = {tuple(table.shape) for table in found.values()}
    if not {"sensitivity", "change"} <= found.keys() or len(shapes) > 1 or len(shapes.pop()) != 2:
        raise InputError(f"{path}: no tables of heads; {mend}")
    return found


@cache
def _tables(path: Path, *_: int) -> dict[str, Tensor]:
    """A process reads a file once: each task asks for those of all tasks before it."""
    return load_file(regular(path))


def attention_floor(model: nn.Module, memory: Memory, context: TaskContext) -> float:
    """The attention loss of the very model that was remembered, in nats: what the stored form costs at least."""
    total = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        for (place,), counts in in_step(len(memory)):
            batch = batch_of([memory.encoded(place)], context)
            loss = attention_distillation_loss(model, [memory.attention(place)], batch, memory.heads)
            total += loss.cpu() * counts
    return float(summed(total, context.device)) / len(memory)
