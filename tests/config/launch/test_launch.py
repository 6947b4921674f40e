"""Shipped launch configurations are read by accelerate as they are meant, and a launch that cannot be is told."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from seekr.cli.main import main
from seekr.config.launch import launch_file, launch_names
from seekr.config.launch.checks import check_fp16, check_launch
from seekr.errors import InputError


def test_names_and_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch_names() == ["ddp", "fsdp2", "zero2", "zero3"]
    for name in launch_names():
        assert main(["launch-config", name]) == 0
        path = Path(capsys.readouterr().out.strip())
        assert path == launch_file(name)
        kind = {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(name, "DEEPSPEED")
        found = load_config_from_file(str(path))  # refuses keys that it does not know
        assert found.distributed_type == kind
        assert found.mixed_precision == "no"
    assert main(["launch-config", "fsdp"]) == 2
    assert "did you mean 'fsdp2'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3"])
def test_what_accelerate_makes_of_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    words = ["--config_file", str(launch_file(name)), "--num_processes", "8", "-m", "seekr", "learn", "config.yaml"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert arguments.num_processes == 8
    assert (arguments.multi_gpu, arguments.use_fsdp, arguments.use_deepspeed) == (
        name == "ddp",
        name == "fsdp2",
        name.startswith("zero"),
    )
    if name.startswith("zero"):
        assert arguments.zero_stage == int(name[-1])
        assert arguments.zero3_init_flag is False
        return
    before = dict(os.environ)
    environment = prepare_multi_gpu_env(arguments)
    os.environ.clear()
    os.environ.update(before)
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    if name == "fsdp2":
        assert environment["FSDP_VERSION"] == "2"
        assert environment["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
        for key in ("FSDP_VERSION", "FSDP_CPU_RAM_EFFICIENT_LOADING", "ACCELERATE_USE_FSDP"):
            monkeypatch.setenv(key, environment[key])
        monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
        monkeypatch.setattr("torch.accelerator.device_count", lambda: 8)
        check_launch({})


@pytest.mark.parametrize(
    ("environment", "training", "devices", "told"),
    [
        (
            {"WORLD_SIZE": "2"},
            {},
            0,
            r"2 processes were launched .* PyTorch finds 0 GPUs; launch one, or set",
        ),
        ({"WORLD_SIZE": "4"}, {}, 2, r"4 processes were launched .* PyTorch finds 2 GPUs; launch 2 on it"),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "3"}, {}, 2, "3 processes were launched on this machine"),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, {}, 2, None),
        ({"WORLD_SIZE": "2"}, {"use_cpu": True}, 0, None),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}, {}, 0, None),
        ({"ACCELERATE_USE_FSDP": "true"}, {}, 0, "FSDP needs a GPU, and PyTorch finds none on this machine"),
        ({}, {"deepspeed": "zero.json", "use_cpu": True}, 1, "DeepSpeed needs a GPU, and this run is one on the CPU"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, {}, 1, "mixed precision is a setting of the run"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, {"bf16": True}, 1, None),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
            {},
            1,
            "fsdp_cpu_ram_efficient_loading must be false",
        ),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO3_INIT": "true"},
            {},
            1,
            "zero3_init_flag must be false",
        ),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, {}, 4, "context, sequence and tensor parallelism"),
    ],
)
def test_what_a_launch_cannot_be(
    environment: dict[str, str],
    training: dict[str, Any],
    devices: int,
    told: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: devices > 0)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: devices)
    if told is None:
        check_launch(training)
        return
    with pytest.raises(InputError, match=told) as raised:
        check_launch(training)
    assert "\n" not in str(raised.value)


def test_quantized_weights_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    import seekr

    folder = tmp_path / "quantized"
    shutil.copytree(tiny_model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    tasks = [seekr.Task("a", train=[{"prompt": "a", "answer": "b"}])]
    with pytest.raises(InputError, match="are quantized, and seekr has no way to train"):
        seekr.learn(model=folder, tasks=tasks, output_dir=tmp_path / "run", lora={"r": 2})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("training", "environment", "devices", "refused"),
    [
        ({"fp16": True}, {}, 0, True),
        ({"fp16": True, "use_cpu": True}, {}, 1, True),
        ({"fp16": True}, {"ACCELERATE_USE_CPU": "true"}, 1, True),
        ({"fp16": True}, {}, 1, False),
        ({"fp16": False}, {}, 0, False),
        ({"bf16": True, "use_cpu": True}, {}, 0, False),
    ],
)
def test_float16_is_not_trained_in_on_a_cpu(
    training: dict[str, Any],
    environment: dict[str, str],
    devices: int,
    refused: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: devices > 0)
    if not refused:
        check_fp16(training)
        return
    with pytest.raises(InputError, match=r"training\.fp16 needs a GPU: .*; set training\.bf16") as raised:
        check_fp16(training)
    assert "\n" not in str(raised.value)
