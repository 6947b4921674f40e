"""transformers' Trainer for one task of a sequence: replay steps between task steps, the losses of an objective."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import torch
import transformers.trainer
from accelerate.utils import broadcast_object_list
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import TrainOutput
from typing_extensions import override

from seekr.data.token_rows import TokenizedRow
from seekr.disk.full import written_to
from seekr.distributed.processes import is_main, of_main
from seekr.errors import InputError, RunError
from seekr.methods.base import Objective
from seekr.modeling.balancing import Balancer, Experts, experts_of
from seekr.modeling.batches import MicroBatch, StepKind
from seekr.modeling.packing import layout_planner
from seekr.training.bar import TrainingBar
from seekr.training.checkpoints import check_processes, is_complete, newest_whole_checkpoint
from seekr.training.gradient_share import gradient_shares
from seekr.training.keeper import CheckpointKeeper, check_all_loaded, load_by_family, load_trained_adapter, lost_weights
from seekr.training.log import StepLog
from seekr.training.order import StepPlan, task_seed
from seekr.training.own_arguments import own_arguments
from seekr.training.rows import RankSlots, Rows
from seekr.training.step_losses import StepLosses


class ContinualTrainer(Trainer):
    """Trains `model` on one task and on what is kept of the tasks before it, in the order of a `StepPlan`.

    - `args.seed`, `task_index` and the epoch give the order of the rows and, at the start, the random state.
    - `losses` says what is trained for and what is replayed; `train_samples` are the task's rows (at least one).
    - Where a `replay_limit` leaves kept rows out, lines of replay steps say how many are replayed, and of how many.
    - `log_path` gets one line of JSON an optimizer step, and `watch` is given it; every `gradient_share_every` steps
      of a kind, the first included, the line also has each loss part's share of the gradient norm, as measured on the
      first micro-batch of the main process. Not measured where a process holds only a part of the model (FSDP,
      DeepSpeed).
    - `step_rows` are the rows of an optimizer step: at most, and by default, as many as the processes take in all
      micro-batches of a step together.
    - Checkpoints go to `args.output_dir`, which belongs to this task: those that are torn or ahead of the run
      are deleted.

    Raises InputError on reentrant gradient checkpointing or an empty task.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        args: TrainingArguments,
        *,
        losses: Objective,
        train_samples: Sequence[TokenizedRow],
        task_name: str,
        task_index: int,
        log_path: Path,
        watch: Callable[[dict[str, Any]], None] | None = None,
        pad_token_id: int | None = None,
        step_rows: int | None = None,
        gradient_share_every: int = 50,
        callbacks: list[TrainerCallback] | None = None,
        **trainer_options: Any,
    ) -> None:
        if not train_samples:
            raise InputError(f"task {task_name!r} has no rows to train on; give it some, or set learn: false")
        args = own_arguments(args)
        keeper = CheckpointKeeper(args.save_total_limit, log_path)
        args.save_total_limit = None
        self._config = model.config
        self._use_cache = getattr(model.config, "use_cache", None)
        super().__init__(model=model, args=args, callbacks=callbacks, **trainer_options)
        self.losses = losses
        self.task_name = task_name
        self.task_index = task_index
        self.gradient_share_every = gradient_share_every
        self.plan = StepPlan(
            task_rows=len(train_samples),
            memory_sizes=tuple(len(memory) for memory in losses.memories),
            batch_rows=step_rows
            or args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
            seed=args.seed,
            task=task_index,
            replay_passes=losses.replay_passes,
            replay_limit=losses.replay_limit,
        )
        self.rows = Rows(train_samples, losses.memories, pad_token_id, losses.signals, self.plan.kept)
        kept, replayed = sum(self.plan.memory_sizes), len(self.plan.kept)
        self._limited = {"replayed_rows": replayed, "kept_rows": kept} if replayed < kept else {}
        self.step_log = StepLog(log_path, watch)
        self._bar = TrainingBar(f"learning {task_name}", task_index, self._last_losses)
        for callback in (transformers.trainer.DEFAULT_PROGRESS_CALLBACK, PrinterCallback):
            self.remove_callback(callback)
        # The keeper comes last, since its marker says that all is written.
        for ours in (self._bar, self.step_log, keeper):
            self.add_callback(ours)
        experts = experts_of(cast(nn.Module, self.model), compiled=args.torch_compile)
        self._balancer = Balancer(experts, self.accelerator) if isinstance(experts, Experts) else None
        self._not_loaded: tuple[list[str], list[str]] = ([], [])  # names of weights, of a checkpoint gone on from
        self._step = StepLosses()
        self._shares: dict[str, float] | None = None
        self._line: dict[str, Any] | None = None  # of the step being taken, for the log
        self._shown: dict[str, float] = {}  # its losses, for the bar
        self._unreported: dict[str, list[float]] = defaultdict(list)

    @override
    def train(  # type: ignore[override]
        self, resume_from_checkpoint: str | Path | bool | None = None, **options: Any
    ) -> TrainOutput:
        """Train to the end of the task.

        `resume_from_checkpoint`: a complete checkpoint to go on from; True = the newest complete one in
        `args.output_dir`, or from the beginning where there is none. Raises RunError on a torn checkpoint,
        and on a loss that is not finite, before the optimizer step that it would have led to.
        """
        if resume_from_checkpoint is True:
            newest = newest_whole_checkpoint(Path(str(self.args.output_dir))) if is_main() else None
            resume_from_checkpoint = of_main(newest)
        if resume_from_checkpoint and not is_complete(Path(resume_from_checkpoint)):
            raise RunError(f"checkpoint {resume_from_checkpoint} was not written to its end; resume from another one")
        if resume_from_checkpoint and self.is_deepspeed_enabled:
            check_processes(Path(resume_from_checkpoint), self.args.world_size)
        set_seed(task_seed(self.args.seed, self.task_index, self.args.process_index))
        self._step = StepLosses()
        self._line = None
        # DeepSpeed cuts weights up as they are loaded; with FSDP other processes than the main one may have none yet.
        planner = [None if self.is_deepspeed_enabled else layout_planner(cast(nn.Module, self.model))]
        self.rows.plan_layout = broadcast_object_list(planner)[0]
        try:
            checkpoint = str(resume_from_checkpoint) if resume_from_checkpoint else None
            return super().train(resume_from_checkpoint=checkpoint, **options)
        finally:
            self._bar.close()
            if self._use_cache is not None:
                self._config.use_cache = self._use_cache  # the Trainer turns it off, also for who saves it

    @override
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        loaded, checkpoint = cast(nn.Module, model or self.model), Path(resume_from_checkpoint)
        self._not_loaded = ([], [])
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        missing, unexpected = self._not_loaded
        if isinstance(loaded, PreTrainedModel) and (lost_weights(loaded, missing) or unexpected):
            load_by_family(loaded, checkpoint)
        else:
            check_all_loaded(loaded, missing, unexpected)
        load_trained_adapter(loaded, checkpoint)

    @override
    def _issue_warnings_after_load(self, load_result: Any) -> None:
        self._not_loaded = (load_result.missing_keys, load_result.unexpected_keys)

    @override
    def get_train_dataloader(self) -> DataLoader[MicroBatch]:
        """This rank's micro-batches: as many an epoch as its steps of both kinds times the accumulation."""
        args = self.args
        slots = RankSlots(
            self.plan,
            self.rows.length,
            accumulation=args.gradient_accumulation_steps,
            processes=args.world_size,
            rank=args.process_index,
            epoch=lambda: self.state.global_step // len(self.plan),
        )
        workers = args.dataloader_num_workers
        return DataLoader(
            self.rows,
            batch_sampler=slots,
            collate_fn=itemgetter(0),  # a slot already is a whole micro-batch
            num_workers=workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            persistent_workers=args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=args.dataloader_prefetch_factor if workers > 0 else None,
            generator=torch.Generator(),  # nothing is drawn from torch's random state
        )

    @override
    def training_step(  # type: ignore[override]
        self, model: nn.Module, inputs: MicroBatch, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of one micro-batch; after the last of a step the losses are checked."""
        # A micro-batch's loss already is its share of the step's, so nothing is left to divide by.
        self.current_gradient_accumulation_steps = 1
        loss = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[arg-type]
        if self.accelerator.sync_gradients:
            self._end_step(inputs.kind)
            self.losses.after_backward(model, self.state.global_step)
        return loss

    @override
    def compute_loss(  # type: ignore[override]
        self,
        model: nn.Module,
        inputs: MicroBatch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """This micro-batch's share of the step's loss, times the processes: gradients are averaged."""
        if inputs.kind == "task" and self._balancer is not None:
            parts = self._balancer.task_loss(self.losses.step_losses, model, inputs)
        else:
            loss = self.losses.step_losses if inputs.kind == "task" else self.losses.replay_loss
            parts = loss(model, inputs)
        if not self._step:
            self._shares = self._gradient_shares(model, parts)
        self._step.add(inputs, parts)
        return torch.stack(list(parts.values())).sum() * self.args.world_size

    @override
    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the Trainer's, with the mean of each loss part since the last report, by kind of step."""
        if "loss" in logs:
            logs |= {name: sum(values) / len(values) for name, values in self._unreported.items()}
            self._unreported.clear()
        super().log(logs, *args, **kwargs)

    @override
    def floating_point_ops(self, inputs: MicroBatch) -> int:  # type: ignore[override]
        """As the Trainer's, for the micro-batch's model inputs."""
        return super().floating_point_ops(inputs.inputs)

    def _gradient_shares(self, model: nn.Module, parts: dict[str, Tensor]) -> dict[str, float] | None:
        _, earlier = self.plan.kind_of(self.state.global_step)
        whole_model = not (self.is_fsdp_enabled or self.is_deepspeed_enabled)
        if not whole_model or earlier % self.gradient_share_every or not self.is_world_process_zero():
            return None
        scaler = self.accelerator.scaler
        scale = scaler.get_scale() if scaler is not None else 1.0
        return gradient_shares(parts, model.parameters(), scale=scale)

    def _end_step(self, kind: StepKind) -> None:
        parts = self._step.sums(self.accelerator)
        if not all(map(math.isfinite, parts.values())):
            self._stop(kind, parts)
        self._shown = {"loss": sum(parts.values()), **parts}
        self._line = {
            "step": self.state.global_step + 1,
            "kind": kind,
            **self._shown,
            **self.losses.facts.get(kind, {}),
            **(self._limited if kind == "replay" else {}),
            "learning_rate": self._get_learning_rate(),
        }
        if self._shares is not None:
            self._line["gradient_share"] = self._shares
        for name, value in parts.items():
            self._unreported[f"{kind}/{name}"].append(value)
        self._step = StepLosses()

    def _stop(self, kind: StepKind, parts: dict[str, float]) -> None:
        # Every rank knows the same sums, so all of them raise.
        rows = [f"row {i}" + (f" of memory {m}" if m >= 0 else "") for m, i in self._step.rows_at_fault()]
        losses = ", ".join(f"{name} {value:g}" for name, value in parts.items())
        raise RunError(
            f"task {self.task_name!r}, step {self.state.global_step + 1} ({kind}): the loss is not finite: {losses}; "
            f"batch of {', '.join(rows) or 'all ranks together'} (counted from 0). The step was not taken; "
            "a lower learning rate or a smaller loss weight may mend it"
        )

    def _last_losses(self) -> dict[str, float]:
        return self._shown

    @override
    def _maybe_log_save_evaluate(self, tr_loss: Tensor, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        # The one place that knows the norm, and before the step's checkpoint, whose lines must be there.
        if self._line is not None and self.is_world_process_zero():
            norm = grad_norm.item() if isinstance(grad_norm, Tensor) else grad_norm
            self.step_log.write({**self._line, "grad_norm": norm})
        self._line = None
        with written_to(Path(str(self.args.output_dir))):
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    @override
    def _prepare_inputs(self, inputs: MicroBatch) -> MicroBatch:  # type: ignore[override]
        return inputs.to(self.args.device)

    @override
    def _get_num_items_in_batch(self, batch_samples: list[MicroBatch], device: torch.device) -> None:
        """A micro-batch carries the totals of its step, but for those that only a forward can tell."""
        if self._balancer is not None:
            with self.compute_loss_context_manager():
                self._balancer.look_ahead(self.model_wrapped, batch_samples)

    @override
    def _track_num_input_tokens(self, inputs: MicroBatch) -> None:
        super()._track_num_input_tokens(inputs.inputs)
