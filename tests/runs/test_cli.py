"""The command line: exit status, the one line on stderr, and what each command leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from shown import cells
from small_runs import TRAINING, digests

from seekr import Run
from seekr.cli.main import main
from seekr.report.summary import decimal

Config = dict[str, Any]


@pytest.fixture
def seekr(tmp_path: Path, config: Config, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Writes the configuration, runs `seekr learn` on it, and returns exit status, stdout and stderr."""

    def run(*arguments: str, text: str | None = None) -> tuple[int, str, str]:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config) if text is None else text)
        capsys.readouterr()
        status = main(["learn", str(path), *arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def edit(config: Config, key: str, value: Any) -> None:
    *parents, last = [int(part) if part.isdecimal() else part for part in key.split(".")]
    place: Any = config
    for part in parents:
        place = place[part]
    place[last] = value


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("model", "./nowhere", "nowhere: no such folder"),
        ("model", "data", "data"),
        ("tasks.0.train", "data/a/nothing.json", "nothing.json: no such file"),
        ("tasks.1.test", "./nothing", "no such file or folder"),
        ("tasks.1.name", "a", "the name 'a' comes twice"),
        ("tasks.1.name", "../x", "'../x'"),
        ("tasks.1.name", "", "task name ''"),
        ("tasks.1.metrik", "accuracy", "tasks.1: unknown key 'metrik'; did you mean 'metric'?"),
        ("tasks.1.metric", "accurcy", "did you mean 'accuracy'?"),
        ("tasks.1.max_new_tokens", 0, "max_new_tokens"),
        ("tasks.1.max_new_tokens", 64, "max_new_tokens"),
        ("tasks", [], "tasks"),
        ("tasks", {"preset": "x"}, "tasks"),
        ("tasks.0", {"name": "a"}, "tasks.0: the key 'train' is missing"),
        ("metod", {}, "unknown key 'metod'; did you mean 'method'?"),
        ("seeds", [], "seeds is empty; name at least one"),
        ("seeds", [0, 1, 0], "seeds names 0 twice"),
        ("seeds", [0, -1], "seeds.1: input should be greater than or equal to 0, not -1"),
        ("seeds", [0, 1.5], "seeds.1: input should be a valid integer, not 1.5"),
        ("seeds", [True], "seeds.0: input should be a valid integer, not True"),
        ("seeds", 3, "seeds: input should be a valid list, not 3"),
        ("seeeds", [0, 1], "unknown key 'seeeds'; did you mean 'seeds'?"),
        ("seed", -1, "seed: input should be greater than or equal to 0, not -1"),
        ("seed", "one", "seed: input should be a valid integer, not 'one'"),
        ("seed", True, "seed"),
        ("dtype", "float64", "dtype"),
        ("cells", "most", "cells"),
        ("keep_stages", 0, "keep_stages must be all, last or a number of at least 1, not 0"),
        ("keep_stages", "first", "keep_stages must be all, last"),
        ("max_length", 65, "max_length"),
        ("max_length", 1, "max_length"),
        ("method.name", "seeker", "did you mean 'seekr'?"),
        ("method.layer_buget", 1, "did you mean 'layer_budget'?"),
        ("method.replay_ratio", 0, "method.replay_ratio"),
        ("method.replay_ratio", 1.5, "method.replay_ratio"),
        ("method.layer_budget", 3, "layer"),
        ("method.head_budget", 9, "head"),
        ("method.logit_weight", "half", "method.logit_weight"),
        ("training.learning_rat", 1, "training: unknown key 'learning_rat'; did you mean 'learning_rate'?"),
        ("training.learning_rate", -1, "training.learning_rate must be at least 0, not -1"),
        ("training.learning_rate", float("nan"), "training.learning_rate must be at least 0"),
        ("training.learning_rate", "fast", "training.learning_rate"),
        ("training.learning_rate", float("inf"), "training.learning_rate must be a finite number"),
        ("training.num_train_epochs", float("inf"), "training.num_train_epochs must be a finite number"),
        ("training.max_steps", -7, "training.max_steps must be at least 1, not -7"),
        ("training.adam_beta1", 1.5, "training: Invalid beta parameter"),
        ("training.adam_epsilon", -1, "training.adam_epsilon must be at least 0"),
        ("training.dataloader_num_workers", -1, "training.dataloader_num_workers must be at least 0"),
        ("training.optim", "galore_adamw", "training: "),
        ("training.lr_scheduler_kwargs", {"x": 1}, "training: "),
        ("training.lr_scheduler_type", "cosine_with_min_lr", "training: "),
        ("training.eval_on_start", True, "training.eval_on_start cannot be set here"),
        ("training.per_device_train_batch_size", 0, "training.per_device_train_batch_size must be at least 1"),
        ("training.num_train_epochs", 0, "training.num_train_epochs must be above 0"),
        ("training.lr_scheduler_type", "zigzag", "zigzag"),
        ("training.report_to", "abacus", "training.report_to: 'abacus'"),
        ("training.output_dir", "x", "training.output_dir cannot be set here"),
        ("training.seed", 1, "training.seed cannot be set here"),
        ("training.data_seed", 1, "training.data_seed cannot be set here"),
        ("training.save_only_model", True, "training.save_only_model cannot be set here"),
        ("training.ignore_data_skip", True, "training.ignore_data_skip cannot be set here"),
        ("training.auto_find_batch_size", True, "training.auto_find_batch_size cannot be set here"),
        ("training.load_best_model_at_end", True, "training.load_best_model_at_end cannot be set here"),
        ("training.resume_from_checkpoint", "x", "training.resume_from_checkpoint cannot be set here"),
        ("training.gradient_checkpointing_kwargs", {"use_reentrant": True}, "reentrant"),
        ("lora", {"rank": 8}, "lora: unknown key 'rank'"),
        ("lora", {"r": 0}, "lora.r must be at least 1"),
        ("lora", {"lora_dropout": 2.0}, "lora.lora_dropout must be at least 0 and below 1, not 2.0"),
        ("lora", {"target_modules": ["nowhere"]}, "lora: does not fit the model"),
        ("output_dir", "", "output_dir"),
    ],
)
def test_wrong_configuration(seekr: Any, config: Config, tmp_path: Path, key: str, value: Any, told: str) -> None:
    edit(config, key, value)
    before = sorted(path.name for path in tmp_path.iterdir())
    status, out, err = seekr()
    assert (status, out) == (2, "")
    assert told in err
    assert err.startswith("seekr: error: ")
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({*before, "config.yaml"})


def test_an_output_dir_that_cannot_be_made_is_refused_behind_what_is_said_of_the_rows(
    seekr: Any, config: Config
) -> None:
    config["output_dir"] = "/proc/none/run"
    status, out, err = seekr()
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("seekr: error: output_dir: /proc/none/run cannot be written to")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ('[{"prompt": "x", "answer": "y"},\n {"prompt": "x" "answer"}]', "rows.json, line 2: broken JSON"),
        ("[]", "there are no rows"),
        ('{"prompt": "x", "answer": "y"}', "must hold one list of rows"),
        ('[{"prompt": "x", "answer": "y"}, {"prompt": "x"}]', "rows.json, row 2: 'answer' is missing"),
        ('[{"answer": "y"}]', "row 1: 'prompt' is missing"),
        ('[{"prompt": 3, "answer": "y"}]', "row 1: 'prompt' must be a string"),
        ('[{"prompt": "x", "answer": null}]', "row 1: 'answer' is missing"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test", "eval"])
def test_wrong_rows(seekr: Any, config: Config, tmp_path: Path, split: str, rows: str, told: str) -> None:
    (tmp_path / "rows.json").write_text(rows)
    config["tasks"][1][split] = "rows.json"
    status, _, err = seekr()
    assert status == 2
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model: x\n  tasks: [", "config.yaml:2: not valid YAML"),
        ("model: x\nmodel: y\n", "config.yaml:2: not valid YAML: key 'model' is given twice"),
        ("model: x\nseed: " + "1" * 5000, "not valid YAML: Exceeds the limit"),
        ("model: 2024-13-45", "not valid YAML: month must be in 1..12"),
        ("model: " + "[[" * 3000, "not valid YAML: nested too deeply"),
        ("- model\n", "must hold keys and values"),
        ("", "must hold keys and values"),
        ("model: x\noutput_dir: y\n", "the key 'tasks' is missing"),
    ],
)
def test_wrong_yaml(seekr: Any, text: str, told: str) -> None:
    status, _, err = seekr(text=text)
    assert status == 2
    assert told in err


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed", "unknown argument"),
        ("=3", "reads key=value"),
        ("sed=1", "unknown key 'sed'; did you mean 'seed'?"),
        ("tasks.2.name=c", "tasks is a list of 2, counted from 0"),
        ("tasks.².name=c", "tasks is a list of 2, counted from 0"),
        ("seed.x=1", "seed holds no keys"),
        ("training.learning_rate=[1", "not valid YAML"),
        ("training.learning_rte=1", "did you mean 'learning_rate'?"),
    ],
)
def test_wrong_override(seekr: Any, config: Config, override: str, told: str) -> None:
    config["seed"] = 0
    status, _, err = seekr("--dry-run", override)
    assert status == 2
    assert told in err


def test_a_model_family_that_cannot_be_tapped(seekr: Any, config: Config, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BloomConfig, BloomForCausalLM

    tiny = BloomConfig(vocab_size=259, hidden_size=16, n_layer=1, n_head=2)
    BloomForCausalLM(tiny).save_pretrained(tmp_path / "bloom")
    AutoTokenizer.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "bloom")
    config |= {"model": "bloom", "max_length": 64}
    status, _, err = seekr()
    assert status == 2
    assert err.count("\n") == 1
    assert err.startswith("seekr: error: model: BloomForCausalLM does not call its attention through transformers'")
    assert not (tmp_path / "runs").exists()


def test_a_rotary_embedding_that_changes_with_the_length_is_refused_only_where_it_does(
    seekr: Any, config: Config, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    rotary = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 32}
    tiny = LlamaConfig(
        vocab_size=259,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        rope_parameters=rotary,
    )
    LlamaForCausalLM(tiny).save_pretrained(tmp_path / "dynamic")
    AutoTokenizer.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "dynamic")
    config |= {"model": "dynamic"}
    status, _, err = seekr("--dry-run")
    assert (status, err.count("\n")) == (2, 1)
    assert "set max_length=" in err
    limit = err.partition("set max_length=")[2].split()[0]
    assert seekr("--dry-run", f"max_length={limit}")[0] == 0


@pytest.mark.parametrize("given", ["../x={data}", "x/y={data}", "a={data}"])
def test_an_unsafe_or_doubled_name_behind_a_finished_run(
    finished: Run, data_folder: Path, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    before = sorted(finished.folder.parent.iterdir())
    capsys.readouterr()
    assert main(["learn", "--from", str(finished.folder), "--task", given.format(data=data_folder / "c")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(finished.folder.parent.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["lern"],
        ["learn"],
        ["learn", "nowhere.yaml"],
        ["learn", "--from", "nowhere", "--task", "c=x"],
        ["learn", "--task", "c=x"],
        ["learn", "--fro", "x"],
        ["status", "nowhere"],
        ["heads", "nowhere"],
        ["memory", "nowhere"],
        ["evaluate", "nowhere"],
        ["report", "nowhere"],
        ["demo", "--seed", "-1"],
        ["bench", "--json", "nowhere/bench.json"],
        ["compare"],
        ["compare", "nowhere"],
        ["tune"],
        ["tune", "nowhere.yaml", "seed=[1]"],
        ["tune", "nowhere.yaml", "method.replay_ratio=[0.1]"],
        ["tune", "nowhere.yaml", "method.replay_ratio=[0.1]", "--holdout", "0"],
        ["tune", "nowhere.yaml", "method.replay_ratio=[0.1]", "--holdout", "1.5"],
        ["tune", "nowhere.yaml", "method.replay_ratio=[0.1]", "--holdout", "-3"],
    ],
)
def test_wrong_command_line(arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("seekr: error: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_dry_run_touches_nothing(seekr: Any, tmp_path: Path) -> None:
    status, out, err = seekr("--dry-run", "tasks.1.train_limit=10")
    assert (status, err) == (0, "")
    assert cells(out, "0", "a")[2:7] == ["14", "3", "4", "0", "3"]  # rows, test rows, task steps, replay steps, kept
    assert cells(out, "1", "b")[2:7] == ["10", "3", "3", "3", "2"]
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_shows_settings_as_a_file_has_them(seekr: Any) -> None:
    _, out, _ = seekr("--dry-run", "training.bf16=false")
    assert all(setting in " ".join(out.split()) for setting in ("layer_budget null", "logit_shift true", "bf16 false"))
    assert "None" not in out


def test_the_dry_run_counts_the_steps_that_are_taken(seekr: Any, tmp_path: Path) -> None:
    _, out, _ = seekr("--dry-run", "training.num_train_epochs=1.5")
    assert seekr("training.num_train_epochs=1.5")[0] == 0
    for place, (name, stage) in enumerate((("a", "00-a"), ("b", "01-b"))):
        log = (tmp_path / "runs" / "x" / "stages" / stage / "log.jsonl").read_text().splitlines()
        kinds = [json.loads(line)["kind"] for line in log]
        planned = [int(cell) for cell in cells(out, str(place), name)[4:6]]
        assert planned == [kinds.count("task"), kinds.count("replay")]
    answered = list((tmp_path / "runs" / "x" / "predictions").iterdir())
    rows = sum(len(file.read_text().splitlines()) for file in answered)
    assert f"cells seen: {len(answered)} of the matrix, {rows} test rows" in out


def test_learn_then_look_at_it(seekr: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = seekr("seed=3")
    assert status == 0
    shown = out
    run = tmp_path / "runs" / "x"
    assert json.loads((run / "run.json").read_text())["seed"] == 3
    for command in ("status", "heads", "memory"):
        assert main([command, str(run)]) == 0
        shown += capsys.readouterr().out
    score = Run(run).scores.matrix[0][0]
    assert cells(shown.partition("───")[2], "a")[1:] == [f"{score:.1f}"]
    scores = Run(run).scores
    assert f"OP {decimal(scores.overall_performance)}   BWT {decimal(scores.backward_transfer)}" in shown
    assert cells(shown, "0", "a") == ["0", "a", "done"]
    assert [len(cells(shown.partition(f"Heads after {name}")[2], "layer", "1")) for name in "ab"] == [6, 6]
    assert cells(shown.partition("Kept of each task")[2], "b")[1:7] == ["3", "24", "12", "1", "1", "4"]
    assert main(["evaluate", str(run), "--cells", "all"]) == 0
    scores = Run(run).scores
    assert None not in [*scores.base, *scores.matrix[0], *scores.matrix[1]]
    assert main(["report", str(run), "--output", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").stat().st_size > 1000
    untouched = digests(run, "**/*")
    add = ["learn", "--from", str(run), "--task", f"c={tmp_path / 'data' / 'c'},max_new_tokens=3"]
    assert main([*add, "--dry-run"]) == 0
    assert main(add) == 0
    assert main(add) == 0
    assert digests(run, "**/*") == untouched
    more = Run(tmp_path / "runs" / "x-c")
    assert [stage.name for stage in more.stages] == ["a", "b", "c"]
    assert more.scores.matrix[1][:2] == scores.matrix[1]
    assert None not in more.scores.matrix[2]
    capsys.readouterr()
    assert main([*add[:-1], "a=x"]) == 2
    assert main([*add[:-1], f"c={tmp_path / 'data' / 'c'},metrc=x"]) == 2
    assert "did you mean 'metric'?" in capsys.readouterr().err


def test_learning_does_not_fail_at_its_end_for_general_tasks_that_cannot_be_read(seekr: Any, tmp_path: Path) -> None:
    """What was learned for hours was followed by exit status 2, and no scores."""
    assert seekr()[0] == 0
    (tmp_path / "runs/x/general.json").write_text("null\n")
    status, out, err = seekr()
    assert status == 0
    assert f"run: {tmp_path / 'runs/x'}\n" in out
    assert err.count("general.json: holds nothing") == 1
    assert main(["evaluate", str(tmp_path / "runs/x")]) == 0


def test_method_name_on_the_command_line_drops_what_only_the_other_knows(seekr: Any) -> None:
    status, out, _ = seekr("--dry-run", "method.name=replay")
    assert status == 0
    assert "method      replay: replay_passes 4, replay_ratio 0.2, replay_choice random\n" in out
    assert seekr("--dry-run", "method.query_budget=3", "method.name=replay")[0] == 2


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, seekr.cli.main; from seekr.cli.parser import make_parser; make_parser().format_help(); "
        "print([m for m in sys.modules if m in %r])"
    )
    heavy = ["torch", "transformers", "datasets", "peft", "pydantic", "numpy"]
    result = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["status", "check", "verify", "compare", "report"])
def test_looking_at_a_run_imports_no_torch(command: str, finished: Run, tmp_path: Path) -> None:
    """It took four seconds where the answer takes a tenth of one."""
    words = [command, str(finished.folder), *(["--output", str(tmp_path / "page.html")] if command == "report" else [])]
    code = "import sys; from seekr.cli.main import main; main(%r); print([m for m in %r if m in sys.modules])"
    heavy = ["torch", "transformers", "peft", "datasets"]
    result = subprocess.run([sys.executable, "-c", code % (words, heavy)], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["working/*/checkpoint-*/complete.json", "stages/00-a", "predictions/0-0.jsonl"])
def test_killed_and_resumed_is_never_stopped(config: Config, tmp_path: Path, where: str) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "training": {**TRAINING, "num_train_epochs": 4}}))
    command = [sys.executable, "-m", "seekr", "learn", str(tmp_path / "config.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = tmp_path / "runs" / "x"
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(run.glob(where)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    resumed = digests(run)
    shutil.rmtree(run)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert digests(run) == resumed


@pytest.mark.slow
def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(config: Config, tmp_path: Path) -> None:
    training = {**TRAINING, "num_train_epochs": 40, "save_steps": 1000}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "training": training}))
    command = [sys.executable, "-m", "seekr", "learn", str(tmp_path / "config.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    run = tmp_path / "runs" / "x"
    while not list(run.glob("working/*/log.jsonl")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "the same command goes on from there" in err
    assert list(run.glob("working/00-a/checkpoint-*/complete.json"))
    subprocess.run(command, check=True, capture_output=True)
    steps = (run / "stages" / "00-a" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in steps] == list(range(1, 161))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lern", "c.yaml"], "'lern' is none; did you mean 'learn'?"),
        (["learn", "c.yaml", "--dry-rn"], "'--dry-rn'; did you mean '--dry-run'?"),
        (["evaluate", "r", "--by", "vlm"], "argument --by: 'vlm' is none; did you mean 'vllm'?"),
    ],
)
def test_a_word_that_was_mistyped_gets_a_hint(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert told in capsys.readouterr().err
