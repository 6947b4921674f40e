"""Runs on chat rows: right answers are right whatever a template adds, and a run says the same on every day."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from earlier_runs import as_of_before_manifests
from family_templates import DATED, tokenizer_of, tokenizer_with
from small_runs import Stop, StopAt, digests
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

import seekr
from seekr import Run, Task
from seekr.cli.main import main
from seekr.errors import InputError
from seekr.runs.learn import evaluate

pytestmark = pytest.mark.thorough

QUESTIONS = {"Is the lake cold?": "yes", "Is the sun hot?": "yes", "Can a stone swim?": "no", "Do cats bark?": "no"}
TRAINING = {"learning_rate": 5e-3, "max_steps": 70, "per_device_train_batch_size": 4, "lr_scheduler_type": "constant"}
SHORT = {**TRAINING, "max_steps": 4, "save_steps": 2}
BEGUN = datetime(2024, 2, 29, 23, 59)


def rows(questions: dict[str, str] = QUESTIONS) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in questions.items()
    ]


def save_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A small random Llama with this tokenizer, on the disk."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dated_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "dated", tokenizer_with(DATED))


@pytest.fixture
def on_day(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets every clock that a template could ask, and a run, to a day since `BEGUN`."""

    def set_to(day: int) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return BEGUN + timedelta(days=day)

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)
        monkeypatch.setattr("seekr.data.clock.datetime", Clock)

    return set_to


def task(name: str, **more: Any) -> Task:
    questions = QUESTIONS if name == "a" else {question.upper(): answer for question, answer in QUESTIONS.items()}
    return Task(name, **{"train": rows(questions), "test": rows(questions), "max_new_tokens": 24, **more})


def learn(model: Path, folder: Path, names: str = "ab", **more: Any) -> Run:
    method = {"name": "replay", "replay_ratio": 0.5}
    return seekr.learn(
        **{
            "model": model, "tasks": [task(name) for name in names], "output_dir": folder, "method": method,
            "training": SHORT, **more,
        }
    )  # fmt: skip


def lines(run: Run, cell: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "predictions" / f"{cell}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("family", ["Qwen 3", "gpt-oss", "GLM 4.5", "no generation prompt"])
def test_right_answers_score_100_whatever_the_template_adds(family: str, tmp_path: Path) -> None:
    """Learned by heart, they are generated with all that the template writes around them."""
    chatml = "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{% endfor %}"
    tokenizer = tokenizer_with(chatml) if family == "no generation prompt" else tokenizer_of(family)
    model = save_model(tmp_path / "model", tokenizer)
    more = {"method": "sequential", "training": TRAINING}
    run = learn(model, tmp_path / "run", "a", tasks=[task("a", max_new_tokens=40)], **more)
    assert run.scores.matrix == [[100.0]]
    for line, answer in zip(lines(run, "0-0"), QUESTIONS.values(), strict=True):
        assert (line["prediction"], line["references"]) == (answer, [answer])
        assert line["generated"].strip().endswith(answer)
        assert line["generated"].strip() != answer
        assert "compared" not in line
    assert all(answer.right for answer in run.answers(0, 0))
    before = (run.folder / "scores.json").read_bytes()
    (run.folder / "scores.json").unlink()
    again = learn(model, tmp_path / "run", "a", tasks=[task("a", max_new_tokens=40)], **more)
    assert (again.folder / "scores.json").read_bytes() == before  # from what was kept


def test_own_answers_are_right_without_what_the_template_adds(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", tokenizer_of("Qwen 3"))
    method = {"name": "on_policy_replay", "replay_ratio": 1.0}
    one = [task("a", max_new_tokens=40)]
    run = learn(model, tmp_path / "run", tasks=one, method=method, training=TRAINING)
    memory = run.stages[0].memory
    assert memory is not None
    assert memory.summary()["own_answers"] == 4
    kept = AutoTokenizer.from_pretrained(model).decode(memory.encoded(0).input_ids)
    assert kept.endswith("<think>\n\n</think>\n\nyes<|im_end|>")  # as it was generated


def test_answers_of_an_earlier_version_are_read_as_those_of_today(tmp_path: Path) -> None:
    """Then the file held all that was generated, special tokens aside."""
    model = save_model(tmp_path / "model", tokenizer_of("Qwen 3"))
    run = learn(model, tmp_path / "run", "a", method="sequential")
    file = run.folder / "predictions" / "0-0.jsonl"
    old = [
        {"prompt": line["prompt"], "prediction": f"<think>\n\n</think>\n\n{answer}", "references": line["references"]}
        for line, answer in zip(lines(run, "0-0"), QUESTIONS.values(), strict=True)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in old))
    scores = json.loads((run.folder / "scores.json").read_text())
    del scores["answers"]
    (run.folder / "scores.json").write_text(json.dumps(scores))
    assert learn(model, tmp_path / "run", "a", method="sequential").scores.matrix == [[100.0]]


def test_a_run_gone_on_with_on_another_day_is_the_same_run(
    dated_model: Path, tmp_path: Path, on_day: Callable[[int], None]
) -> None:
    """Stopped between tasks and within one: the bytes of a run that was never stopped, begun on the first day."""
    on_day(0)
    straight = learn(dated_model, tmp_path / "straight")
    assert straight.record["clock"] == "2024-02-29T23:59:00"
    for number, stop in enumerate([(0, 3), (1, 1), (1, 3)]):
        folder = tmp_path / f"run{number}"
        on_day(0)
        with pytest.raises(Stop):
            learn(dated_model, folder, callbacks=[StopAt(*stop)])
        on_day(1)
        run = learn(dated_model, folder)
        assert digests(run.folder) == digests(straight.folder)
        assert run.record["clock"] == straight.record["clock"]
    on_day(2)
    other = learn(dated_model, tmp_path / "later")
    assert digests(other.folder) != digests(straight.folder)  # a run that begins on another day reads another day


def test_the_day_of_a_run_is_told_to_evaluate_and_to_the_run_that_goes_on_from_it(
    dated_model: Path, tmp_path: Path, on_day: Callable[[int], None]
) -> None:
    files = {}
    for name in "ab":
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(json.dumps(task(name).train))
    tasks = {name: Task(name, train=files[name], test=files[name], max_new_tokens=8) for name in "ab"}
    on_day(0)
    both = learn(dated_model, tmp_path / "both", tasks=[tasks["a"], tasks["b"]], cells="all")
    one = learn(dated_model, tmp_path / "one", tasks=[tasks["a"]])
    on_day(1)
    evaluate(one.folder, cells="all")
    assert (one.folder / "predictions/base-0.jsonl").read_bytes() == (
        both.folder / "predictions/base-0.jsonl"
    ).read_bytes()
    on_day(40)
    words = f"b={files['b']},test={files['b']},max_new_tokens=8"
    assert main(["learn", "--from", str(one.folder), "--task", words]) == 0
    more = Run(tmp_path / "one-b")
    assert more.record["clock"] == both.record["clock"]
    assert digests(more.folder, "stages/01-b/**/*.safetensors") == digests(both.folder, "stages/01-b/**/*.safetensors")


def test_seeds_begin_on_one_day(dated_model: Path, tmp_path: Path, on_day: Callable[[int], None]) -> None:
    on_day(0)
    learn(dated_model, tmp_path / "runs", "a", seeds=[0])
    on_day(5)
    first, second = learn(dated_model, tmp_path / "runs", "a", seeds=[0, 1])  # type: ignore[misc]
    assert first.record["clock"] == second.record["clock"] == "2024-02-29T23:59:00"


def test_a_run_of_an_earlier_version_began_when_its_record_was_written(
    dated_model: Path, tmp_path: Path, on_day: Callable[[int], None]
) -> None:
    on_day(0)
    run = learn(dated_model, tmp_path / "run", "a")
    file = run.folder / "run.json"
    record = json.loads(file.read_text())
    del record["clock"]
    file.write_text(json.dumps(record))
    as_of_before_manifests(run.folder)
    os.utime(file, (BEGUN.timestamp(), BEGUN.timestamp()))
    on_day(9)
    assert learn(dated_model, tmp_path / "run", "ab").record["clock"] == "2024-02-29T23:59:00"


def test_a_checkpoint_of_another_configuration_is_announced_before_it_goes(
    dated_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, working = tmp_path / "run", tmp_path / "run" / "working" / "00-a"
    method = {"name": "replay", "replay_ratio": 0.5, "replay_passes": None}
    with pytest.raises(Stop):
        learn(dated_model, folder, callbacks=[StopAt(0, 3)], method=method)
    assert (working / "checkpoint-2").is_dir()
    kept = json.loads((working / "task.json").read_text())
    assert kept["run"]["method"]["replay_passes"] is None
    with pytest.raises(Stop):  # of the same configuration it is gone on with
        learn(dated_model, folder, callbacks=[StopAt(0, 1), StopAt(0, 3)], method=method)
    older = {**kept["run"], "method": {k: v for k, v in kept["run"]["method"].items() if k != "replay_passes"}}
    (working / "task.json").write_text(json.dumps({**kept, "run": older}))  # which did not know that setting
    with pytest.raises(Stop):
        learn(dated_model, folder, callbacks=[StopAt(0, 1), StopAt(0, 3)], method=method)
    assert "deleted" not in capsys.readouterr().err
    for change, why in (
        (
            {**kept, "run": {**kept["run"], "training": {"learning_rate": 0.5}}},
            "training.learning_rate is 0.5 there and",
        ),
        (
            {**kept, "stage": {"name": "a", "tasks": {"a": {**kept["stage"]["tasks"]["a"], "train": "0"}}}},
            "tasks.a.train is 0 there and",
        ),
        (None, "task.json is missing or damaged"),
    ):
        shutil.copytree(working, tmp_path / "kept", dirs_exist_ok=True)
        (working / "task.json").write_text("{" if change is None else json.dumps(change))
        with pytest.raises(Stop):
            learn(dated_model, folder, callbacks=[StopAt(0, 1)], method=method)
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "deleted" in line]
        assert line.startswith("seekr: task a: its checkpoint of step 2 is of ")
        assert why in line
        assert not (working / "checkpoint-2").exists()
        shutil.rmtree(working)
        shutil.copytree(tmp_path / "kept", working)
        shutil.rmtree(tmp_path / "kept")


def test_a_checkpoint_is_the_same_configuration_with_tuples_in_it(
    dated_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are lists once they were written: the checkpoint was deleted on every start, without a word."""
    lora = {"r": 2, "target_modules": ("q_proj", "v_proj")}
    with pytest.raises(Stop):
        learn(dated_model, tmp_path / "run", "a", lora=lora, callbacks=[StopAt(0, 3)])
    seen: list[int] = []

    class Steps(StopAt):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(state.global_step)

    learn(dated_model, tmp_path / "run", "a", lora=lora, callbacks=[Steps(0, 9)])
    assert seen == [3, 4]
    assert "deleted" not in capsys.readouterr().err


def test_a_runs_template_is_saved_with_its_models_and_a_tasks_is_not(tmp_path: Path, dated_model: Path) -> None:
    own, other = tmp_path / "own.jinja", tmp_path / "other.jinja"
    own.write_text(DATED.replace("strftime_now('%d %b %Y')", "day"))
    other.write_text(DATED.replace("strftime_now('%d %b %Y')", "'a date'"))
    tasks = [task("a"), task("b", chat_template=other)]
    more = {"chat_template": own, "chat_template_kwargs": {"day": "Monday"}}
    with pytest.raises(InputError, match=r"chat_template_kwargs: the chat template reads no 'dya'"):
        learn(dated_model, tmp_path / "run", tasks=tasks, chat_template=own, chat_template_kwargs={"dya": "Monday"})
    run = learn(dated_model, tmp_path / "run", tasks=tasks, **more)
    for stage in run.stages:
        saved = AutoTokenizer.from_pretrained(stage.folder / "model")
        assert saved.chat_template == own.read_text()
        assert stage.memory is not None
        text = saved.decode(stage.memory.encoded(0).input_ids)
        assert text.startswith(f"<|im_start|>system\nDay: {'Monday' if stage.name == 'a' else 'a date'}<|im_end|>")
    config = json.loads((run.folder / "run.json").read_text())["config"]
    assert config["chat_template"] == str(own)
    assert config["chat_template_kwargs"] == {"day": "Monday"}
    assert config["tasks"][1]["chat_template"] == str(other)
    own.write_text(DATED)
    with pytest.raises(InputError, match=r"tokenizer is .* there and"):
        learn(dated_model, tmp_path / "run", tasks=tasks, chat_template=own)


def test_what_became_of_other_keys_is_said_before_the_work(
    dated_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = [{**row, "id": place, "tools": [{"name": "x"}]} for place, row in enumerate(rows())]
    learn(dated_model, tmp_path / "run", tasks=[task("a", train=odd, test=odd)])
    err = capsys.readouterr().err
    assert err.count("seekr: task a: ignored of the rows, as nothing reads it: id, tools\n") == 1
