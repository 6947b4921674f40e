"""Where a method's weights come out the same: with gradient checkpointing, with two processes, with sharded parameters.

Each check learns two built-in tasks, with SGD so that rounding stays rounding, and gives a relative distance:
of the weights after the second task to those of a plain run, over how far that task moved them; or of the gradients.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from seekr import Run, Task, learn
from seekr.builtin import builtin_model, builtin_rows
from seekr.disk.files import write_json
from seekr.errors import InputError
from seekr.methods import METHODS
from seekr.runs.model_store import newest_weights
from seekr.runs.prepare import Request, prepare
from seekr.runs.stage import make_context
from seekr.training.order import Step, StepPlan, split
from seekr.training.rows import Rows

OF_SKILLS = ("general_replay",)
"""Methods that need a skill."""

SETTINGS: dict[str, dict[str, Any]] = {"seekr": {"attention_weight": 10}, "on_policy_replay": {"attention_weight": 10}}
TOLERANCE = 1e-4
ROWS = 24
BATCH = 8
TRAINING = {"optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant", "num_train_epochs": 1}


def tasks(method: str, folder: Path) -> list[Task]:
    """Two tasks without test rows, so that nothing is scored, and a skill where the method needs one."""
    found = []
    for name in ("sort", "upper", "reverse") if method in OF_SKILLS else ("upper", "reverse"):
        file = folder / f"{name}.json"
        if not file.exists():
            write_json(file, builtin_rows(name, "train", seed=0, count=ROWS))
        found.append(Task(name, train=file, separator="", learn=name != "sort"))
    return found


def settings(method: str) -> dict[str, Any]:
    """The method with its defaults, and so many kept rows that several replay steps come about."""
    ratio = {"replay_ratio": 0.5} if "replay_ratio" in METHODS[method]().settings() else {}
    return {"name": method, **ratio, **SETTINGS.get(method, {})}


def run_method(method: str, folder: Path, **training: Any) -> Run:
    """One run of the check."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return learn(
        model=builtin_model(),
        tasks=tasks(method, folder.parent),
        output_dir=folder,
        method=settings(method),
        max_length=40,
        training={**TRAINING, "per_device_train_batch_size": BATCH // processes, **training},
    )


def distance(run: Path, other: Path) -> float:
    """‖w − w'‖ over ‖w − w_before‖, of the weights that two runs have after their last task."""
    stages, others = (sorted((folder / "stages").iterdir()) for folder in (run, other))
    first, second = _weights(stages[-1]), _weights(others[-1])
    before = _weights(stages[-2]) if len(stages) > 1 else {}
    if first.keys() != second.keys():
        return float("inf")
    moved = [w - before[name] if name in before and before[name].shape == w.shape else w for name, w in first.items()]
    return _norm([w - second[name] for name, w in first.items()]) / _norm(moved)


def with_gradient_checkpointing(method: str, folder: Path) -> float:
    """The distance between runs without and with gradient checkpointing."""
    plain = run_method(method, folder / "plain")
    return distance(plain.folder, run_method(method, folder / "checkpointed", gradient_checkpointing=True).folder)


def on_two_processes(work: str, methods: list[str], folder: Path) -> dict[str, float | str]:
    """Method → the distance that the work `ddp` or `fsdp` gives for it, or the line that refused it.

    `folder` gets a run of each method on one process first.
    """
    for method in methods:
        run_method(method, folder / method)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, work, str(folder), *methods],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=1200)[1] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("\n".join(errors))
    return dict(json.loads((folder / f"{work}.json").read_text()))


def ddp(method: str, folder: Path) -> float:
    """The distance between the run on one process and the same run on this and another one."""
    two = run_method(method, folder / f"{method}-ddp")
    return distance(folder / method, two.folder)


def fsdp(method: str, folder: Path) -> float:
    """The relative distance of the gradients of a task and a replay step, whole and with parameters sharded (FSDP2).

    Accelerate sets FSDP up on accelerators only, so this is `fully_shard` around the losses, without the Trainer.
    """
    run = Run(folder / method)
    spec = prepare(Request(run.config, redo=run.stages[-1].name))  # the rows of a finished task are not read
    asked, stage, earlier = spec.method, spec.stages[-1], spec.finished
    if not asked.shards:
        raise InputError(f"{asked.name} needs its parameters whole")
    start = newest_weights(earlier)
    context = make_context(spec, stage, earlier, start)
    context.working = folder / "working" / f"{method}-{torch.distributed.get_rank()}"
    context.working.mkdir(parents=True)
    torch.manual_seed(0)
    model = spec.models.trainable(start)
    context.model = model
    objective = asked.start(context)
    with torch.no_grad():  # at the start of a task many losses are 0
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    rows = Rows(stage.samples, objective.memories, context.pad_token_id, objective.signals)
    plan = StepPlan(len(stage.samples), tuple(map(len, objective.memories)), BATCH, 0, stage.index)  # a pass is enough
    steps = [next(step for step in plan.epoch(0) if step.kind == kind) for kind in dict.fromkeys(plan.kinds)]
    whole = [_gradients(objective, model, rows, step, 1, 0) for step in steps]
    mesh = init_device_mesh("cpu", (2,))
    for layers in [module for module in model.modules() if isinstance(module, nn.ModuleList)]:
        for layer in layers:
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    sharded = [_gradients(objective, model, rows, step, 2, torch.distributed.get_rank()) for step in steps]
    return max(
        _norm([one - other for one, other in zip(*pair, strict=True)]) / _norm(pair[0])
        for pair in zip(whole, sharded, strict=True)
    )


def _gradients(objective: Any, model: Any, rows: Rows, step: Step, processes: int, rank: int) -> list[Tensor]:
    slot = split(step, rows.length, accumulation=1, processes=processes)[0][rank]
    batch = rows[slot]
    model.zero_grad()
    loss = objective.step_losses if step.kind == "task" else objective.replay_loss
    (torch.stack(list(loss(model, batch).values())).sum() * processes).backward()
    found = [p.grad for p in model.parameters() if p.requires_grad]
    return [grad.full_tensor() if isinstance(grad, DTensor) else grad.clone() for grad in found]


def work(kind: str, folder: Path, methods: list[str]) -> None:
    """What each of the two processes does: a check of every method, the distances to a file."""
    check = {"ddp": ddp, "fsdp": fsdp}[kind]
    rank = int(os.environ["RANK"])
    if kind == "fsdp":
        torch.distributed.init_process_group("gloo")
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # a run on one process is opened
            del os.environ[name]
    found: dict[str, float | str] = {}
    for method in methods:
        try:
            found[method] = check(method, folder)
        except InputError as error:
            found[method] = str(error)
    if rank == 0:
        (folder / f"{kind}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def _weights(stage: Path) -> dict[str, Tensor]:
    found = {}
    for file in sorted((stage / "model").glob("*model*.safetensors")):
        found |= {name: tensor.double() for name, tensor in load_file(file).items()}
    return found


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt())


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
