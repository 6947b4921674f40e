"""What Python code calls: `learn` a sequence of tasks, and `evaluate` what is missing of the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

from transformers import TrainerCallback

from seekr.config.schema import make_config, resolve_paths
from seekr.data.task import Task
from seekr.distributed.agreement import agreed
from seekr.distributed.processes import is_main
from seekr.errors import InputError, RunError, kind_of
from seekr.methods import Method, make_method
from seekr.modeling.loading import one_kind_of_bar
from seekr.runs.exchange import settle
from seekr.runs.execute import facts, run_request
from seekr.runs.folder import finished_stages
from seekr.runs.live import LiveLog
from seekr.runs.lock import locked
from seekr.runs.prepare import Request, RunSpec, prepare
from seekr.runs.record import describe_task
from seekr.runs.run import Run
from seekr.runs.scores import ScoreBook
from seekr.runs.seeds import run_seeds, seed_requests
from seekr.runs.standing import check_chain


class _Settings(TypedDict, total=False):
    method: str | Mapping[str, Any] | Method
    training: Mapping[str, Any] | None
    lora: Mapping[str, Any] | Literal[False] | None
    dtype: str
    max_length: int | None
    chat_template: str | Path | None
    chat_template_kwargs: Mapping[str, Any] | None
    cells: str | None
    general: str | Path | Mapping[str, Any] | None
    vllm: Mapping[str, Any] | None
    keep_stages: str | int
    encrypt: bool | None
    seed: int
    callbacks: Sequence[TrainerCallback]


@overload
def learn(
    *,
    model: str | Path,
    tasks: Sequence[Task],
    output_dir: str | Path,
    seeds: None = ...,
    **settings: Unpack[_Settings],
) -> Run: ...


@overload
def learn(
    *,
    model: str | Path,
    tasks: Sequence[Task],
    output_dir: str | Path,
    seeds: Sequence[int],
    **settings: Unpack[_Settings],
) -> list[Run]: ...


def learn(
    *,
    model: str | Path,
    tasks: Sequence[Task],
    output_dir: str | Path,
    method: str | Mapping[str, Any] | Method = "seekr",
    training: Mapping[str, Any] | None = None,
    lora: Mapping[str, Any] | Literal[False] | None = None,
    dtype: str = "float32",
    max_length: int | None = None,
    chat_template: str | Path | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    cells: str | None = None,
    general: str | Path | Mapping[str, Any] | None = None,
    vllm: Mapping[str, Any] | None = None,
    keep_stages: str | int = "all",
    encrypt: bool | None = None,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Run | list[Run]:
    """Learns a sequence of tasks; called again with the same arguments it goes on where it stopped.

    Returns the run; with `seeds` the list of their runs, in the order given.

    Args:
        model: folder or hub name of a causal language model of transformers, with its tokenizer.
        tasks: in their order; those with `learn=False` are skills of the base model, remembered before all others.
        output_dir: the folder of the run. Relative paths are looked up from the current folder.
        method: name, name and settings, or an object such as `seekr.methods.Seekr(replay_ratio=0.02)`.
        training: fields of transformers' `TrainingArguments`.
        lora: fields of peft's `LoraConfig`; None = all weights are trained, or the adapter that the method trains by
            itself; False = no adapter, which such a method refuses.
        dtype: of the weights while they are trained: float32, bfloat16 or float16.
        max_length: tokens of prompt and answer; None = what model and tokenizer allow.
        chat_template: the file of a Jinja template for chat rows, which is saved with the model; None = the model's.
        chat_template_kwargs: variables of the template, such as `enable_thinking`; those of a task come over them.
        cells: which scores: "paper" = diagonal and last row, "seen" = every task so far, "all"; None = those
            that the run has, or "seen" for up to six tasks and "paper" for more.
        general: a file, or keys of the section, of rows that no task trains on, by whose likelihood general ability is
            watched; None = it is not.
        vllm: arguments of vLLM's engine, which then answers test rows; None = transformers answers them.
        keep_stages: whose weights stay on disk: "all", "last", or a number of stages.
        encrypt: whether kept rows, what is said of them, and answers are encrypted, see `seekr.disk.sealed`; None = as
            the run was begun, or not.
        seed: of everything that is drawn.
        seeds: instead of `seed`: a run of each, in output_dir/seed-N.
        callbacks: for transformers' Trainer, task after task.

    Raises:
        InputError: what was given cannot be used; nothing was trained or overwritten.
        RunError: the run failed; what was finished stays.
    """
    if not isinstance(model, str | Path):
        raise InputError(
            f"model: give a folder or hub name, not a {type(model).__name__}; save_pretrained(FOLDER) makes one of it, "
            "which a run can be resumed from"
        )
    tasks = [tasks] if isinstance(tasks, Task) else list(tasks)  # what comes from a generator is looked at twice
    if wrong := [task for task in tasks if not isinstance(task, Task)]:
        raise InputError(f"tasks: give each as seekr.Task(name, train=..., ...), not {kind_of(wrong[0])}")
    if not isinstance(training or {}, Mapping):
        raise InputError(f"training: give a mapping of fields of TrainingArguments, not a {type(training).__name__}")
    if not isinstance(output_dir, str | Path):
        raise InputError(f"output_dir: give a folder, not {kind_of(output_dir)}")
    chosen = make_method(dict(method) if isinstance(method, Mapping) else method)

    def plain(value: Any) -> Any:
        return dict(value) if isinstance(value, Mapping) else value

    raw = {
        "model": str(model),
        "tasks": [describe_task(task) for task in tasks],
        "method": chosen.settings(),
        "training": dict(training or {}),
        "lora": plain(lora),
        "dtype": dtype,
        "max_length": max_length,
        "chat_template": None if chat_template is None else str(chat_template),
        "chat_template_kwargs": plain(chat_template_kwargs),
        "cells": cells,
        "general": str(general) if isinstance(general, Path) else plain(general),
        "vllm": plain(vllm),
        "keep_stages": keep_stages,
        "encrypt": encrypt,
        "seed": seed,
        "seeds": list(seeds) if isinstance(seeds, Sequence) else seeds,
        "output_dir": str(output_dir),
    }
    config = resolve_paths(make_config(raw, "learn"), Path.cwd())
    request = Request(config, tasks=tasks, method=chosen, callbacks=callbacks)
    if seeds is None:
        return run_request(request)
    return run_seeds(seed_requests(request))


def evaluate(
    run: Path, cells: str | None = None, by: Literal["transformers", "vllm"] | None = None, *, verify: bool = True
) -> Run:
    """Fills in what is missing of the score matrix of a run, as far as the weights are there.

    Answers are by transformers or vLLM, None = as the run has it. `verify`: weights are compared with their hashes.
    Raises InputError where the folder holds no run, its data has changed, or weights that are needed are gone.
    """

    def spec_of_run() -> RunSpec:
        config = Run(run).config
        check_chain(finished_stages(Path(run)), Run(run).record)
        engine = {None: config.vllm, "transformers": None, "vllm": config.vllm or {}}[by]
        return prepare(
            Request(
                config.model_copy(update={"vllm": engine, "cells": cells or config.cells, "keep_stages": "all"}),
                verify=verify,
            )
        )

    agreed(lambda: settle(Path(run)) if is_main() else None)
    spec = agreed(spec_of_run, facts)
    with one_kind_of_bar(), ExitStack() as stack:
        agreed(lambda: stack.enter_context(locked(spec.run)) if is_main() else None)
        book = ScoreBook(spec, stack.enter_context(closing(LiveLog(spec))))
        missing = book.missing(spec.config.cells)
        measurable = book.measurable(missing)
        book.fill(measurable)
        left = sorted({row for row, _ in missing} - {row for row, _ in measurable})
    if left:
        names = ", ".join(spec.tasks[row].task.name for row in left)
        raise RunError(f"{run}: not scored after {names}: the weights are not there (not learned yet, or keep_stages)")
    return Run(run)
