"""An exported stage answers as it was scored, by plain transformers and peft; nothing else leaves the run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from earlier_runs import as_of_before_manifests
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file
from snapshot import snapshot
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from seekr import InputError, Run, RunError
from seekr.cli.main import main
from seekr.disk.files import with_own_hash
from seekr.methods import Sequential
from seekr.methods.form import ModelForm
from seekr.modeling.fingerprints import fingerprint_tokenizer
from seekr.modeling.loading import load_stage, load_tokenizer
from seekr.use.export import export
from seekr.use.form import form_of

RunOf = Callable[[str], Run]


def loaded_by_its_card(folder: Path, base: Path, name: str) -> Any:
    """What the Python of a card makes, told where folder and base lie; it asks and shows something too."""
    (words,) = re.findall("```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    told = words.replace(f'folder = "{name}"', f'folder = "{folder}"').replace('base = "tiny-tied"', f'base = "{base}"')
    found: dict[str, Any] = {}
    exec(told, found)
    return found


@pytest.mark.parametrize(
    ("form", "merge"),
    [
        ("whole", False),
        ("lora", False),
        ("lora", True),
        ("prompts", False),
        *(
            pytest.param(*case, marks=pytest.mark.thorough)
            for case in [
                *[("tied", False), ("tied", True), ("saved", False), ("saved", True), ("olora", False)],
                *[("olora", True), ("osf", True), ("ewc", False), ("joint", False), ("drawn", False)],
            ]
        ),
    ],
)
def test_an_exported_stage_answers_as_it_was_scored(
    run_of: RunOf, base: Path, tmp_path: Path, form: str, merge: bool
) -> None:
    """By the lines of its own card, each test row of the newest task, greedy though the base samples."""
    run, folder = run_of(form), tmp_path / "out"
    export(run.folder, folder, merge=merge)
    assert (folder / "config.json").is_file() == (
        merge or form not in ("lora", "tied", "saved", "olora", "prompts", "drawn")
    )
    found = loaded_by_its_card(folder, base, "out")
    for line in map(json.loads, (run.folder / "predictions" / "1-1.jsonl").read_text().splitlines()):
        inputs = found["tokenizer"](line["prompt"], return_tensors="pt")
        output = found["model"].generate(**inputs, max_new_tokens=4)[0]
        new = output[inputs.input_ids.shape[1] :] if len(output) > inputs.input_ids.shape[1] else output
        assert found["tokenizer"].decode(new, skip_special_tokens=True) == line["prediction"]


def test_folders_load_by_the_calls_of_other_programs(run_of: RunOf, base: Path, tmp_path: Path) -> None:
    """lm-evaluation-harness and TRL load by transformers and peft; vLLM takes all safetensors that lie in a folder."""
    run, model, adapter = run_of("lora"), tmp_path / "model", tmp_path / "adapter"
    export(run.folder, model, merge=True)
    export(run.folder, adapter)
    merged = AutoModelForCausalLM.from_pretrained(str(model), revision="main", dtype="auto", trust_remote_code=False)
    beside = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(str(base), revision="main", dtype="auto"), str(adapter), revision="main"
    )
    ids = AutoTokenizer.from_pretrained(str(model))("a 0=", return_tensors="pt").input_ids
    assert torch.allclose(merged(input_ids=ids).logits, beside(input_ids=ids).logits, atol=1e-4)
    assert AutoConfig.from_pretrained(str(model)).architectures == ["LlamaForCausalLM"]
    assert [path.name for path in model.glob("*.safetensors")] == ["model.safetensors"]
    assert set(load_file(model / "model.safetensors")) <= {f"{name}" for name in merged.state_dict()}
    about = json.loads((adapter / "adapter_config.json").read_text())
    assert (about["peft_type"], about["r"], about["bias"], about["use_dora"]) == ("LORA", 4, "none", False)
    names = set(load_file(adapter / "adapter_model.safetensors"))
    assert all(re.fullmatch(r"base_model\.model\..*\.(q_proj|v_proj|up_proj)\.lora_[AB]\.weight", it) for it in names)


@pytest.mark.parametrize(
    ("form", "near"),
    [("lora", 1e-5), ("tied", 1e-5), pytest.param("saved", 1e-5, marks=pytest.mark.thorough), ("halves", 5e-2)],
)
def test_a_merged_model_has_the_logits_of_its_stage(
    run_of: RunOf, base: Path, tmp_path: Path, form: str, near: float
) -> None:
    """Tied tables took both changes of an adapter on one of them; and of a shared table an adapter has moved none."""
    run = run_of(form)
    export(run.folder, tmp_path / "out", merge=True)
    stage = load_stage(str(base), run.stages[-1].model, dtype=run.config.dtype)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert str(merged.dtype) == f"torch.{run.config.dtype}"
    assert merged.config.tie_word_embeddings == (form not in ("tied", "saved"))
    ids = torch.randint(3, 250, (3, 20))
    with torch.no_grad():
        one, other = stage(input_ids=ids).logits.float(), merged(input_ids=ids).logits.float()
        plain = AutoModelForCausalLM.from_pretrained(base)(input_ids=ids).logits.float()
    assert (one - other).abs().max() <= near * one.abs().max()
    assert (one - plain).abs().max() > 10 * near * one.abs().max()  # the adapter does something


def test_merging_that_changes_answers_is_no_export(
    run_of: RunOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seekr.use.export._untie", lambda base: None)
    with pytest.raises(RunError, match=r"logits differ from the stage's by .*% of the largest"):
        export(run_of("tied").folder, tmp_path / "out", merge=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["whole", "lora", pytest.param("ewc", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("merge", [False, True])
def test_nothing_of_the_memory_and_of_this_machine_leaves(
    run_of: RunOf, data: Path, tmp_path: Path, form: str, merge: bool
) -> None:
    """No path and no row, in whatever file; ewc keeps its measures beside the weights."""
    run = run_of(form)
    before = snapshot(run.folder)
    export(run.folder, tmp_path / "out", merge=merge)
    assert snapshot(run.folder) == before
    row = json.loads((data / "a" / "train.json").read_text())[1]["prompt"]
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    weights = {"model.safetensors", "config.json"} if merge or form != "lora" else {
        "adapter_model.safetensors", "adapter_config.json"
    }  # fmt: skip
    assert files.keys() == weights | {"README.md", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    for secret in ("secret", str(tmp_path.parent.parent), row):
        assert not [name for name, content in files.items() if secret.encode() in content]
    tokenizers = [load_tokenizer(str(folder)) for folder in (tmp_path / "out", run.stages[-1].model)]
    assert len({fingerprint_tokenizer(tokenizer) for tokenizer in tokenizers}) == 1


def test_a_chat_template_goes_along_and_the_card_asks_by_it(talker: Run, tmp_path: Path) -> None:
    export(talker.folder, tmp_path / "out")
    found = loaded_by_its_card(tmp_path / "out", Path(), "out")
    assert found["inputs"].input_ids.shape[1] > 10
    assert found["tokenizer"].chat_template == load_tokenizer(str(talker.stages[-1].model)).chat_template


def test_the_card_says_what_there_is_to_say(run_of: RunOf, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of("lora")
    assert main(["export", str(run.folder), "--stage", "a", "--dry-run"]) == 0
    text = capsys.readouterr().out
    data = ModelCard(text).data
    assert (data.base_model, data.library_name, data.license, data.license_name) == (
        "tiny-tied",
        "peft",
        "other",
        "tiny",
    )
    assert {"seekr", "continual-learning", "derpp", "lora"} == set(data.tags)
    assert "1 of the 2 tasks of its run" in text
    assert "1. `a`: 14 rows, scored by accuracy\n" in text
    assert "`b`" not in text
    assert f"| `a`   | {run.scores.matrix[0][0]:.1f} |" in text
    assert "The run keeps rows of its tasks, with what its method needs of them: 14 of `a`." in text
    assert "Training: rows of a step 4, learning_rate 0.01, num_train_epochs 4" in text
    assert "lora.r 4" in text
    assert "`seekr export lora --stage a`" in text
    assert main(["export", str(run.folder), "--dry-run"]) == 0
    whole = capsys.readouterr().out
    assert f"Overall performance {run.scores.overall_performance:.1f}" in whole
    assert whole.count("\n| `") == 2
    assert "--max-lora-rank 8" in whole
    assert "keeps no rows" in export(run_of("tied").folder, None, dry_run=True).card


def test_the_card_has_no_scores_that_are_not_what_was_written(run_of: RunOf, tmp_path: Path) -> None:
    """A score that somebody had changed stood in the card as the others do."""
    run = Path(shutil.copytree(run_of("lora").folder, tmp_path / "run", symlinks=True))
    (run / "predictions/1-0.jsonl").unlink()
    card = export(run, None, dry_run=True).card
    assert "Scores that cannot be checked any more are among these" in card
    assert "predictions/1-0.jsonl" in card
    assert "| after |" in card
    content = json.loads((run / "scores.json").read_text())
    content["matrix"][1][1] = 77.7
    (run / "scores.json").write_text(json.dumps(content))
    card = export(run, None, dry_run=True).card
    assert "77.7" not in card
    assert "Overall performance" not in card
    assert "The scores of its run are left out" in card
    assert "Nothing was scored" not in card
    assert str(tmp_path) not in card


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("joint", "2 tasks, all at once"),
        ("prompts", "Each score above is by the prompts that its task was learned with"),
        ("drawn", "vLLM takes no learned prompts"),
        ("saved", "vLLM takes no adapter with use_dora, modules_to_save"),
    ],
)
def test_the_card_of_other_forms(run_of: RunOf, form: str, told: str) -> None:
    assert told in export(run_of(form).folder, None, dry_run=True).card


def test_the_base_of_a_hub_cache_has_the_name_of_the_hub() -> None:
    from seekr.use.card import license_of, public_name

    assert public_name("/x/hub/models--owner--a-model/snapshots/0a1b") == "owner/a-model"
    assert public_name("owner/a-model") == "owner/a-model"
    assert public_name("/home/me/models/a-model") == "a-model"
    assert license_of("/nowhere") == {}
    assert license_of("nobody/nothing-of-that-name") == {}


def test_what_a_method_loads_by_itself_is_refused(run_of: RunOf) -> None:
    class OwnForm(ModelForm):
        def load(self, base: str, weights: Path | None, *, dtype: str) -> Any:
            return super().load(base, weights, dtype=dtype)

    class Own(Sequential):
        name = "own"
        form = property(OwnForm)

    with pytest.raises(InputError, match="own loads its model by code of its own, which transformers has not"):
        form_of(run_of("whole").stages[-1].model or Path(), Own(), merge=False)


def torn(run: Run, place: Path, what: str) -> Path:
    """A copy of a run that is not what it was."""
    shutil.copytree(run.folder, place, symlinks=True)
    stages = place / "stages"
    if what in ("unfinished", "empty"):
        shutil.rmtree(stages / "01-b" if what == "unfinished" else stages)
        record = json.loads((place / "run.json").read_text())
        record["stages"] = ["00-a"] if what == "unfinished" else []  # else they would be lost
        (place / "run.json").write_text(json.dumps(with_own_hash(record)))
    elif what == "gap":
        shutil.rmtree(stages / "00-a")
    elif what == "not kept":
        shutil.rmtree(stages / "00-a" / "model")
    elif what == "none kept":
        shutil.rmtree(stages / "00-a" / "model")
        shutil.rmtree(stages / "01-b" / "model")
    elif what == "run.json":
        (place / "run.json").write_text("{")
    else:
        if what.startswith("old "):
            as_of_before_manifests(place)
        what = what.removeprefix("old ")
        for file in [*stages.glob(f"*/model/{what}"), *stages.glob(f"*/{what}")]:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return place


@pytest.mark.parametrize(
    ("form", "what", "words", "told"),
    [
        ("whole", "unfinished", [], "1 of its 2 tasks are learned; finish it"),
        ("whole", "unfinished", ["--stage", "b"], "no finished stage of that name; valid are a"),
        ("whole", "empty", [], "no task is learned yet"),
        ("whole", "gap", [], "stage 00 is missing"),
        ("whole", "not kept", ["--stage", "a"], "its weights are not kept (keep_stages); there are those of b"),
        ("whole", "none kept", [], "its weights are missing; bring them back from a copy"),
        ("whole", "run.json", [], "broken JSON"),
        ("whole", "model.safetensors", [], "bytes, and had"),
        ("whole", "config.json", [], "stages/01-b/model/config.json: it has"),
        ("whole", "stage.json", [], "stage.json, line"),
        ("lora", "adapter_model.safetensors", [], "bytes, and had"),
        ("lora", "adapter_config.json", ["--merge"], "adapter_config.json: it has"),
        ("whole", "old model.safetensors", [], "cannot be loaded"),
        ("lora", "old adapter_model.safetensors", [], "the adapter cannot be read"),
    ],
)
def test_a_run_that_is_not_whole_is_one_line(
    run_of: RunOf, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, what: str, words: list[str], told: str
) -> None:
    folder = torn(run_of(form), tmp_path / "run", what)
    assert main(["export", str(folder), "--output", str(tmp_path / "out"), *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("seekr: error: ")) == ("", 1)
    assert told in err.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_a_tokenizer_that_finds_the_disk_full_is_one_line(
    run_of: RunOf, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by full disks: a bare Exception."""

    def save(*_: object, **__: object) -> None:
        raise Exception("No space left on device (os error 28)")

    run = run_of("whole")
    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", save)
    assert main(["export", str(run.folder), "--output", str(tmp_path / "out")]) == 2
    assert f"--output {tmp_path / 'out'}: cannot be written: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_stage_of_an_unfinished_run_can_be_named(run_of: RunOf, tmp_path: Path) -> None:
    export(torn(run_of("whole"), tmp_path / "run", "unfinished"), tmp_path / "out", stage="a")
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("form", "words", "told"),
    [
        ("whole", ["--output", "full"], "is there already"),
        ("whole", ["--output", "file"], "is there already"),
        ("whole", ["--output", "file/in/it"], "cannot be written"),
        ("whole", ["--output", "{run}/stages/02-c"], "is in the folder of the run"),
        ("whole", [], "say where to: --output DIR"),
        ("whole", ["--output", "out", "--stage", "aa"], "no finished stage of that name; valid are a, b"),
        ("whole", ["--output", "out", "--push", "a b/c"], "--push a b/c: Repo id must"),
        ("whole", ["--output", "out", "--push", "name"], "it reads OWNER/NAME"),
        ("whole", ["--output", "out", "--push", "owner/name"], "the hub wants a token"),
        ("prompts", ["--output", "out", "--merge"], "--merge: progressive_prompts has learned prompts"),
        ("pool", ["--output", "out"], "l2p answers by code of its own"),
        ("pool", ["--output", "out", "--merge"], "l2p answers by code of its own"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_written(
    run_of: RunOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: str,
    words: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    run = run_of(form)
    assert main(["export", str(run.folder), *(word.format(run=run.folder) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert told in err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "x"]
    assert not (run.folder / "stages" / "02-c").exists()


def test_another_base_than_the_one_it_was_trained_on_is_not_merged(
    run_of: RunOf, tiny_model_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(run_of("lora").folder, tmp_path / "run", symlinks=True)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    del record["sha256"]
    record["config"]["model"] = str(tiny_model_folder)
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"is not what .* was trained on"):
        export(tmp_path / "run", tmp_path / "out", merge=True)
    record["config"]["model"] = "/nowhere/base"
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"no such folder; .*/run has adapters on it: put it back, .*model=PATH"):
        export(tmp_path / "run", tmp_path / "out", merge=True)
    assert not (tmp_path / "out").exists()
    export(tmp_path / "run", tmp_path / "out")  # the adapter alone needs no base
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"


class Hub:
    """Stands in for the hub's client: what was asked of it, and what it refuses."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses, self.asked = refuses, []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def asked(*given: Any, **more: Any) -> Any:
            if name == self.refuses:
                raise OSError("401 Client Error:\nInvalid credentials")
            self.asked.append((name, given, more))

        return asked


def test_pushed_it_is_private_and_the_folder_alone(
    run_of: RunOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "x")
    hub = Hub()
    found = export(run_of("whole").folder, tmp_path / "out", push="owner/name", api=lambda: hub)
    assert [name for name, *_ in hub.asked] == ["whoami", "create_repo", "upload_folder"]
    _, given, more = hub.asked[1]
    assert given == ("owner/name",)
    assert more == {"private": True, "exist_ok": True}
    more = hub.asked[2][2]
    assert (more["repo_id"], Path(more["folder_path"])) == ("owner/name", tmp_path / "out")
    assert "\n# name\n" in found.card
    assert 'folder = "owner/name"' in found.card
    export(run_of("whole").folder, None, push="owner/name", dry_run=True, api=lambda: hub)
    assert len(hub.asked) == 3


@pytest.mark.parametrize(
    ("refuses", "kind"), [("whoami", InputError), ("create_repo", RunError), ("upload_folder", RunError)]
)
def test_a_hub_that_refuses(
    run_of: RunOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: str, kind: type[Exception]
) -> None:
    """A token that is refused is told before anything is written; later the folder stays, and how to go on is said."""
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "x")
    with pytest.raises(kind, match="401 Client Error: Invalid credentials") as raised:
        export(run_of("whole").folder, tmp_path / "out", push="owner/name", api=lambda: Hub(refuses))
    assert (tmp_path / "out" / "README.md").exists() == (kind is RunError)
    assert ("hf upload --private owner/name" in str(raised.value)) == (kind is RunError)
