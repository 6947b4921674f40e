"""A run that was stopped and resumed is a run that was never stopped, bit for bit, in weights and log."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from toy_training import StopBehind, log_lines, toy_model, toy_trainer, weights
from transformers import TrainerCallback

from seekr.errors import RunError
from seekr.training.checkpoints import MARKER, newest_complete_checkpoint
from seekr.training.log import StepLog

SAVING = {"save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2, "gradient_share_every": 2}
SAVING |= {"per_device_train_batch_size": 2, "lr_scheduler_type": "linear", "num_train_epochs": 3}
NEEDED = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors"]
STEPS = 15  # of 3 epochs with 3 task steps and 2 replay steps each


def fresh_model(lora: bool) -> Any:
    model = toy_model(dropout=0.3)
    if not lora:
        return model
    adapter = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=2, lora_dropout=0.2)
    return get_peft_model(model, adapter)


def run(folder: Path, stop: int | None = None, lora: bool = False, **settings: Any) -> Any:
    """Start, or go on from what is there, and stop behind step `stop`."""
    callbacks = [StopBehind(stop)] if stop else None
    trainer = toy_trainer(folder, model=fresh_model(lora), callbacks=callbacks, **SAVING | settings)
    torch.manual_seed(torch.seed())  # what happened in the process before must not matter
    if stop:
        with pytest.raises(KeyboardInterrupt):
            trainer.train(resume_from_checkpoint=True)
    else:
        trainer.train(resume_from_checkpoint=True)
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.Tensor, bytes]:
    """Weights and log of the run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = run(folder)
    assert [line["step"] for line in log_lines(folder)] == list(range(1, STEPS + 1))
    return weights(trainer.model), (folder / "log.jsonl").read_bytes()


# In the middle of an epoch, at its end (5, 10), right behind a checkpoint, before any, and several times.
@pytest.mark.parametrize("stops", [[3], [10], [1, 5, 8, 12]])
def test_resumed_is_never_stopped(tmp_path: Path, stops: list[int], whole: tuple[torch.Tensor, bytes]) -> None:
    for stop in stops:
        run(tmp_path, stop)
        assert [line["step"] for line in log_lines(tmp_path)] == list(range(1, stop))
    resumed = run(tmp_path)
    assert torch.equal(weights(resumed.model), whole[0])
    assert (tmp_path / "log.jsonl").read_bytes() == whole[1]


def test_save_settings_of_an_epochs_end(tmp_path: Path) -> None:
    """A checkpoint that lies exactly between two epochs begins the next one, in its own order."""
    settings = {"save_steps": 5}
    whole = run(tmp_path / "whole", **settings)
    run(tmp_path / "stopped", 8, **settings)
    assert newest_complete_checkpoint(tmp_path / "stopped/training").name == "checkpoint-5"
    resumed = run(tmp_path / "stopped", **settings)
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert log_lines(tmp_path / "stopped") == log_lines(tmp_path / "whole")


def test_lora_resumes_too(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", lora=True)
    run(tmp_path / "stopped", 7, lora=True)
    resumed = run(tmp_path / "stopped", lora=True)
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert log_lines(tmp_path / "stopped") == log_lines(tmp_path / "whole")


class TornAt(TrainerCallback):
    """Killed while the checkpoint of a step is written: all files are there but the last ones."""

    def __init__(self, step: int, lost: tuple[str, ...]) -> None:
        self.step, self.lost = step, lost

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            for name in self.lost:
                (Path(args.output_dir) / f"checkpoint-{self.step}" / name).write_bytes(b"torn")
            raise KeyboardInterrupt


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, whole: tuple[torch.Tensor, bytes]) -> None:
    torn = TornAt(8, ("optimizer.pt", "model.safetensors", "trainer_state.json"))
    trainer = toy_trainer(
        tmp_path / "torn", model=fresh_model(False), callbacks=[torn], **SAVING | {"save_total_limit": 1}
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    folder = tmp_path / "torn/training"
    assert (folder / "checkpoint-8").is_dir()
    assert newest_complete_checkpoint(folder) == folder / "checkpoint-6"
    with pytest.raises(RunError, match="checkpoint-8"):
        trainer.train(resume_from_checkpoint=folder / "checkpoint-8")
    resumed = run(tmp_path / "torn", save_total_limit=1)
    assert torch.equal(weights(resumed.model), whole[0])
    assert (tmp_path / "torn/log.jsonl").read_bytes() == whole[1]


def test_as_many_checkpoints_stay_as_asked_for(tmp_path: Path) -> None:
    at_each_save: list[list[str]] = []

    class Look(TrainerCallback):
        """Before the marker: a complete checkpoint has to be there from the second save on."""

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = Path(args.output_dir)
            at_each_save.append([p.name for p in folder.iterdir() if (p / MARKER).exists()])

    for limit, left in ((1, [7]), (2, [6, 7]), (None, [2, 4, 6, 7])):  # the Trainer saves behind the last step too
        folder = tmp_path / str(limit)
        at_each_save.clear()
        toy_trainer(folder, callbacks=[Look()], **SAVING | {"save_total_limit": limit, "max_steps": 7}).train()
        names = {path.name for path in (folder / "training").glob("checkpoint-*")}
        assert names == {f"checkpoint-{step}" for step in left}
        assert len(at_each_save) == 4
        assert all(at_each_save[1:])


def test_a_fresh_start_leaves_nothing_of_an_older_run(tmp_path: Path) -> None:
    run(tmp_path, 9)
    trainer = toy_trainer(tmp_path, model=fresh_model(False), callbacks=[StopBehind(1)], **SAVING)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert newest_complete_checkpoint(tmp_path / "training") is None
    assert (tmp_path / "log.jsonl").read_text() == ""


def test_newest_complete_checkpoint_reads_numbers_and_markers(tmp_path: Path) -> None:
    assert newest_complete_checkpoint(tmp_path / "missing") is None
    for name, marker in (
        ("checkpoint-9", {"step": 9}),
        ("checkpoint-10", {"step": 10}),
        ("checkpoint-11", {"step": 10}),
        ("checkpoint-12", None),
        ("checkpoint-best", {"step": 13}),
    ):
        (tmp_path / name).mkdir()
        for file in NEEDED:
            (tmp_path / name / file).touch()
        if marker is not None:
            (tmp_path / name / MARKER).write_text(json.dumps(marker))
    (tmp_path / "checkpoint-14").mkdir()
    (tmp_path / "checkpoint-14" / MARKER).write_text('{"st')
    assert newest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_resuming_reads_weights_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, 7)
    reads = []
    load = torch.load

    def watched(*args: Any, **kwargs: Any) -> Any:
        reads.append(kwargs.get("weights_only"))
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", watched)
    run(tmp_path)
    assert len(reads) >= 3  # optimizer, schedule, random state
    assert set(reads) == {True}


def test_a_torn_line_of_the_log_is_dropped(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "log.jsonl")
    for step in (1, 2, 3):
        log.write({"step": step, "kind": "task", "loss": float("nan")})
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')
    log.truncate(tmp_path / "checkpoint-9")
    assert log_lines(tmp_path) == [{"step": step, "kind": "task", "loss": None} for step in (1, 2, 3)]
    log.truncate(tmp_path / "checkpoint-2")
    log.write({"step": 3, "kind": "task"})
    assert [line["step"] for line in log_lines(tmp_path)] == [1, 2, 3]
    log.truncate(tmp_path / "checkpoint-0")
    assert log.path.read_bytes() == b""


ODD_LINES = [
    b"[]",
    b"1",
    b"{}",
    b'{"step":null}',
    b'{"step":"2"}',
    b'{"step":1}',
    b'{"step":1,"kind":[]}',
    b"",
    b"\xff",
    b"[" * 100_000,
]


@pytest.mark.parametrize(
    "damage",
    [
        *(lambda log, line=line: log.write_bytes(line + b"\n" + log.read_bytes()) for line in ODD_LINES),
        Path.unlink,
        lambda log: log.write_bytes(b""),
        lambda log: log.write_bytes(bytes(log.stat().st_size)),
        lambda log: log.write_bytes(log.read_bytes()[:-200]),
        lambda log: log.write_bytes(log.read_bytes().replace(b'"loss": ', b'"loss": 1', 1)),
        lambda log: log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[1:])),
    ],
)
def test_a_log_that_is_not_what_was_written_is_named_and_training_goes_on(
    damage: Any, tmp_path: Path, whole: tuple[torch.Tensor, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """Found by review: the log of the task lacked lines without a word, or its first line was a traceback."""
    run(tmp_path, 7)
    damage(tmp_path / "log.jsonl")
    capsys.readouterr()
    resumed = run(tmp_path)
    assert capsys.readouterr().err.count("log.jsonl: not what was written up to checkpoint-6") == 1
    assert torch.equal(weights(resumed.model), whole[0])
    lines = (tmp_path / "log.jsonl").read_bytes().splitlines()
    assert set(whole[1].splitlines()[6:]) <= set(lines)
    assert all(0 < json.loads(line)["step"] <= STEPS for line in lines)


def change_marker(checkpoint: Path, **changes: Any) -> None:
    marker = json.loads((checkpoint / MARKER).read_text()) | changes
    (checkpoint / MARKER).write_text(json.dumps({key: value for key, value in marker.items() if value is not None}))


@pytest.mark.parametrize(("name", "files"), [*((name, None) for name in NEEDED), ("optimizer.pt", {})])
def test_a_checkpoint_that_lacks_what_the_trainer_needs_is_passed_over(
    name: str, files: Any, tmp_path: Path, whole: tuple[torch.Tensor, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """Found by review: its marker listed no files, and training went on with a fresh optimizer."""
    run(tmp_path, 7)
    newest = tmp_path / "training/checkpoint-6"
    change_marker(newest, files=files, sha256=None)
    (newest / name).unlink()
    resumed = run(tmp_path)
    said = capsys.readouterr().err
    assert f"{newest}: the " in said
    assert "passed over" in said
    assert torch.equal(weights(resumed.model), whole[0])


def test_a_checkpoint_without_a_list_of_files_is_called_unverified_once(
    tmp_path: Path, whole: tuple[torch.Tensor, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, 7)
    change_marker(tmp_path / "training/checkpoint-6", files=None, sha256=None, log=None)
    resumed = run(tmp_path)
    assert capsys.readouterr().err.count("checkpoint-6: its complete.json lists no files") == 1
    assert torch.equal(weights(resumed.model), whole[0])


@pytest.mark.parametrize("changes", [{"files": {}}, {"files": None}, {"log": None}, {"processes": 2}, {"step": 4}])
def test_a_marker_that_was_changed_is_named_and_its_checkpoint_passed_over(
    changes: dict[str, Any], tmp_path: Path, whole: tuple[torch.Tensor, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, 7)
    change_marker(tmp_path / "training/checkpoint-6", **changes)
    resumed = run(tmp_path)
    assert "checkpoint-6/complete.json: damaged; this checkpoint is passed over" in capsys.readouterr().err
    assert torch.equal(weights(resumed.model), whole[0])


def test_deepspeeds_checkpoint_of_another_number_of_processes_is_told(tmp_path: Path) -> None:
    """DeepSpeed is not installed here: what it cannot read is refused before it is asked."""
    run(tmp_path, 3)
    checkpoint = newest_complete_checkpoint(tmp_path / "training")
    assert checkpoint is not None
    marker = json.loads((checkpoint / MARKER).read_text())
    assert (marker["step"], marker["processes"]) == (2, 1)
    (checkpoint / MARKER).write_text(json.dumps({"step": 2, "processes": 4}))
    trainer = toy_trainer(tmp_path, model=fresh_model(False), **SAVING)
    trainer.is_deepspeed_enabled = True
    with pytest.raises(RunError, match=r"was written by 4 processes, and DeepSpeed .* launch 4, or delete"):
        trainer.train(resume_from_checkpoint=True)
