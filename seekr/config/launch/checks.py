"""What the way in which a run was launched must fit, before anything is read: its devices, its method, its training."""

from __future__ import annotations

import os
from typing import Any

import torch

from seekr.distributed.processes import on_cpu, process_count
from seekr.errors import InputError
from seekr.methods import Method

SHARDING = ("FSDP", "DeepSpeed")


def check_launch(training: dict[str, Any]) -> None:
    """A launch has a device for each process, and leaves to the run what is the run's. Raises InputError."""
    cpu = on_cpu() or training.get("use_cpu") is True
    found = 0 if cpu or not torch.accelerator.is_available() else torch.accelerator.device_count()
    for name in sharding(training):
        if not found:
            why = "this run is one on the CPU" if cpu else "PyTorch finds none on this machine"
            raise InputError(f"{name} needs a GPU, and {why}; leave {name} out of the launch and of training")
    if _says("ACCELERATE_USE_PARALLELISM_CONFIG") or training.get("parallelism_config"):
        raise InputError(
            "context, sequence and tensor parallelism cut rows or heads over the devices, and attention is read whole; "
            "leave parallelism_config out and spread parameters by FSDP (`seekr launch-config fsdp2`)"
        )
    # Accelerate would say nothing: each process would train by itself, or two of them on one device.
    here = int(os.environ.get("LOCAL_WORLD_SIZE", process_count()))
    if process_count() > 1 and not cpu and here > found:
        mend = f"launch {found} on it" if found else "launch one, or set training.use_cpu: true for several on the CPU"
        raise InputError(f"{here} processes were launched on this machine, where PyTorch finds {found} GPUs; {mend}")
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision != "no" and training.get(precision) is not True:
        raise InputError(
            f"mixed precision is a setting of the run: leave mixed_precision: {precision} out of the launch, and say "
            "training.bf16 or training.fp16"
        )
    for variable, key in (
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "fsdp_cpu_ram_efficient_loading"),
        ("ACCELERATE_DEEPSPEED_ZERO3_INIT", "zero3_init_flag"),
    ):
        if sharding(training) and _says(variable):
            raise InputError(f"{key} must be false in the launch: every process reads the whole model into CPU memory")


def check_fp16(training: dict[str, Any]) -> None:
    """float16 is trained in on a GPU alone; accelerate leaves it out on a CPU and says nothing. Raises InputError."""
    on_gpu = torch.accelerator.is_available() and not (on_cpu() or training.get("use_cpu"))
    if training.get("fp16") and not on_gpu:
        raise InputError(
            "training.fp16 needs a GPU: on the CPU weights would be trained in float32, and attention and logits kept "
            "in float16; set training.bf16 and training.use_cpu, or leave fp16 out"
        )


def check_sharding(method: Method, training: dict[str, Any]) -> None:
    """A method that needs parameters and gradients whole is not trained sharded. Raises InputError."""
    for name in () if method.shards else sharding(training):
        raise InputError(
            f"method {method.name}: it needs parameters and gradients whole, and {name} cuts them up; "
            "use plain data parallelism, or another method"
        )


def sharding(training: dict[str, Any]) -> list[str]:
    """By what of FSDP and DeepSpeed parameters, gradients or the optimizer are spread over the processes."""
    return [name for name in SHARDING if _says(f"ACCELERATE_USE_{name.upper()}") or training.get(name.lower())]


def _says(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"
