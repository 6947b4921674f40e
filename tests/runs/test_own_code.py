"""Code that a received run names is run by nobody's leave but its reader's."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from earlier_runs import as_of_before_manifests

from seekr import Run
from seekr.cli.main import main
from seekr.errors import InputError
from seekr.methods import Sequential
from seekr.modeling.loading import load_config_of, load_tokenizer

MODULE = """
from pathlib import Path

Path(__file__).with_suffix(".ran").touch()


def score(predictions, references, prompts):
    return 50.0
"""

COMMANDS = {
    "evaluate": ["evaluate", "RUN"],
    "export": ["export", "RUN", "--output", "OUT"],
    "graft": ["graft", "RUN"],
    "score": ["score", "RUN", "--task", "b=DATA"],
    "chat": ["chat", "RUN"],
    "learn": ["learn", "--from", "RUN", "--task", "c=DATA", "--output-dir", "OUT"],
}
"""All that make objects of the configuration that a run has kept."""

READING = [["status"], ["check"], ["compare"], ["report", "--output", "OUT"], ["verify"], ["memory"]]


def received(run: Path, path: str, value: object) -> None:
    """Has run.json say something else at a dotted path."""
    record = json.loads((run / "run.json").read_text())
    record.pop("sha256", None)  # as whoever can write it does
    place = record["config"]
    *parts, last = path.split(".")
    for part in parts:
        place = place[int(part)] if part.isdigit() else place[part]
    place[last] = value
    (run / "run.json").write_text(json.dumps(record))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "code_of_others.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "code_of_others", raising=False)
    return "code_of_others"


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.folder, tmp_path / "run"))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ("tasks.1.metric", "code_of_others:score", "tasks.1.metric"),
        ("tasks.0.metric", "subprocess:call", "tasks.0.metric"),
        ("method.name", "code_of_others.Mine", "method.name"),
        ("vllm", {"worker_cls": "code_of_others.Mine"}, "vllm.worker_cls"),
        ("vllm", {"logits_processors": ["code_of_others:Mine"]}, "vllm.logits_processors"),
    ],
)
def test_received_run_names_code_and_none_is_run(
    command: str,
    path: str,
    value: object,
    key: str,
    run: Path,
    module: str,
    data_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    received(run, path, value)
    places = {"RUN": run, "OUT": tmp_path / "out", "c=DATA": f"c={data_folder / 'c'}"}
    places["b=DATA"] = f"b={data_folder / 'b'}"
    assert main([str(places.get(word, word)) for word in COMMANDS[command]]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"run.json: {key} names code" in said
    assert "SEEKR_TRUST=" in said
    assert not (tmp_path / "code_of_others.ran").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", READING, ids=lambda words: words[0])
def test_what_only_shows_a_run_shows_it_and_runs_no_code(
    command: list[str], run: Path, module: str, tmp_path: Path
) -> None:
    received(run, "tasks.1.metric", "code_of_others:score")
    received(run, "method.name", "code_of_others.Mine")
    words = [str(tmp_path / "page.html") if word == "OUT" else word for word in command]
    assert main([words[0], str(run), *words[1:]]) in (0, 3)
    assert not (tmp_path / "code_of_others.ran").exists()


@pytest.mark.parametrize("trusted", ["code_of_others", "json, code_of_others"])
def test_code_is_run_once_it_is_trusted(
    trusted: str, run: Path, module: str, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received(run, "tasks.1.metric", "code_of_others:score")
    monkeypatch.setenv("SEEKR_TRUST", trusted)
    assert main(["score", str(run), "--task", f"b={data_folder / 'b'}"]) == 0
    assert (tmp_path / "code_of_others.ran").exists()


def test_package_that_is_trusted_is_so_with_what_it_holds_and_no_other(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received(run, "tasks.1.metric", "package.module:score")
    for trusted, refused in (("package", False), ("package.module", False), ("pack", True), ("module", True)):
        monkeypatch.setenv("SEEKR_TRUST", trusted)
        if refused:
            with pytest.raises(InputError, match=r"SEEKR_TRUST=package\.module"):
                _ = Run(run).config
        else:
            assert Run(run).config.tasks[1]["metric"] == "package.module:score"


def test_code_of_this_process_is_its_own(learn: Callable[..., Run], tmp_path: Path) -> None:
    class Mine(Sequential):
        pass

    run = learn(tmp_path / "run", "a", method=Mine())
    assert run.config.method["name"].endswith("Mine")


def test_adapter_that_names_a_module_is_not_loaded(
    learn: Callable[..., Run],
    module: str,
    data_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """peft imports megatron_core where megatron_config is given."""
    run = learn(tmp_path / "run", "b", lora={"r": 2}).folder
    as_of_before_manifests(run)
    file = run / "stages/00-b/model/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"megatron_config": {"a": 1}, "megatron_core": module}))
    assert main(["score", str(run), "--task", f"b={data_folder / 'b'}"]) == 2
    assert "megatron_core" in capsys.readouterr().err
    assert not (tmp_path / "code_of_others.ran").exists()


def test_token_in_a_received_record_is_named_and_on_no_page(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A version of before took hub_token, wrote it into run.json, and the page showed it."""
    token = "hf_" + "aB3" * 10
    received(run, "training.hub_token", token)
    received(run, "training.run_name", f"of {token}")
    page = tmp_path / "page.html"
    for command in (["report", str(run), "--output", str(page)], ["status", str(run)], ["verify", str(run)]):
        assert main(command) in (0, 3)
        said = capsys.readouterr()
        assert token not in said.out + said.err
        assert "training.hub_token is a token" in " ".join((said.out + said.err).split())
    assert token not in page.read_text()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_model_that_asks_for_code_of_the_hub_is_refused(
    key: str, tiny_model_folder: Path, tmp_path: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers would fetch and run a kernel of this name."""
    model = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {key: "kernels-community/flash-attn2@branch"}))
    (tmp_path / "c.json").write_text(
        json.dumps({"model": "model", "tasks": [{"name": "a", "train": str(data_folder / "a")}], "output_dir": "r"})
    )
    assert main(["learn", str(tmp_path / "c.json"), "--dry-run"]) == 2
    assert "code of the hub; seekr runs none that comes with a model" in capsys.readouterr().err


def test_weights_lie_next_to_their_index(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    (model / "model.safetensors").rename(tmp_path / "moved.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../moved.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="outside of the folder"):
        load_config_of(str(model))


@pytest.mark.parametrize(
    ("file", "key", "value", "refused"),
    [
        ("tokenizer_config.json", "model_max_length", "x", True),
        ("tokenizer.json", "pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated",
                                             "invert": False}, False),
    ],
)  # fmt: skip
def test_tokenizer_that_breaks_its_library_is_one_line(
    file: str, key: str, value: object, refused: bool, tiny_model_folder: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    content = json.loads((model / file).read_text())
    (model / file).write_text(json.dumps(content | {key: value}))
    with pytest.raises(InputError, match=r"\A[^\n]+\Z") if refused else contextlib.nullcontext():
        assert load_tokenizer(str(model))("aaaa b").input_ids
