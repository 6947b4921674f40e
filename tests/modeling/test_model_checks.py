"""A folder that is not quite the model: every weight that would be random or left out is named before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from seekr.config.schema import make_config, resolve_paths
from seekr.errors import InputError
from seekr.modeling.checks import end_token_note
from seekr.modeling.loading import load_config_of, load_model, load_tokenizer
from seekr.runs.prepare import Request, prepare

Weights = dict[str, Tensor]
WIDTH = 16


def tiny(**changes: Any) -> LlamaForCausalLM:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=60, max_position_embeddings=64, **sizes | changes))


def saved(folder: Path, change: Callable[[Weights], Weights] = lambda w: w, model: Any = None, **changes: Any) -> str:
    (model or tiny(**changes)).save_pretrained(folder)
    file = folder / "model.safetensors"
    save_file(change(dict(load_file(file))), file, metadata={"format": "pt"})
    return str(folder)


def told(folder: str) -> str:
    with pytest.raises(InputError) as error:
        load_model(folder, dtype="float32")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 600
    return str(error.value)


def wrapped(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[Weights], Weights]:
    """The weights as they are named by what a training script had put around the model."""
    return lambda weights: {name: tensor.clone() for name, tensor in wrap(tiny()).state_dict().items()}


def without(*names: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: tensor for name, tensor in weights.items() if name not in names}


@pytest.mark.parametrize("tied", [False, True])
def test_a_whole_model_is_loaded(tmp_path: Path, tied: bool) -> None:
    """Of tied weights one is in the file; where both are, that is whole too."""
    folder = saved(tmp_path / "a", tie_word_embeddings=tied)
    assert ("lm_head.weight" in load_file(f"{folder}/model.safetensors")) != tied
    load_model(folder, dtype="float32")
    both = saved(
        tmp_path / "b",
        lambda w: w | {"lm_head.weight": w["model.embed_tokens.weight"].clone()},
        tie_word_embeddings=tied,
    )
    load_model(both, dtype="float32")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"eos_token_id": [2, 7],', "JSONDecodeError"),
        ("", "JSONDecodeError"),
        ("[2, 7]", "cannot be read: "),
        ('{"eos_token_id": "<|im_end|>"}', "eos_token_id '<|im_end|>' is no token id, nor a list of them"),
        ('{"eos_token_id": [2, "x"]}', "is no token id"),
    ],
)
def test_broken_generation_settings_were_left_aside(tmp_path: Path, text: str, fault: str) -> None:
    """Answers then never ended at the end of a turn, which they alone name."""
    folder = saved(tmp_path)
    file = tmp_path / "generation_config.json"
    file.write_text(text)
    message = told(folder)
    assert f"model: {folder}: its generation_config.json, which names the tokens that end an answer" in message
    assert fault in message
    file.write_text('{"eos_token_id": [2, 7]}')
    assert load_model(folder, dtype="float32").generation_config.eos_token_id == [2, 7]
    file.unlink()
    load_model(folder, dtype="float32")


def test_answers_ended_by_a_token_that_the_model_does_not_end_by(tmp_path: Path, tiny_model_folder: Path) -> None:
    """A tokenizer named the token that begins a turn; nothing said that answers were trained to end with it."""
    tokenizer = load_tokenizer(str(tiny_model_folder))
    end = tokenizer.eos_token_id
    assert end_token_note(str(tmp_path), tokenizer) is None  # a folder without generation_config.json
    file = tmp_path / "generation_config.json"
    for right in (end, [end, 7], None, []):
        file.write_text(json.dumps({"eos_token_id": right}))
        assert end_token_note(str(tmp_path), tokenizer) is None
    for other, name in ((7, repr(tokenizer.convert_ids_to_tokens(7))), ([7, 10**10], "10000000000"), ([-1, 7], "-1")):
        file.write_text(json.dumps({"eos_token_id": other}))
        note = end_token_note(str(tmp_path), tokenizer)
        assert f"end with {tokenizer.eos_token!r}, the tokenizer's eos_token, where its generation_config.json" in note
        assert name in note
    file.write_text("[2, 7]")
    with pytest.raises(InputError, match=r"generation_config.json, which names the tokens that end an answer, cannot"):
        end_token_note(str(tmp_path), tokenizer)


@pytest.mark.parametrize(
    ("wrap", "mend"),
    [
        (torch.compile, "save what is inside of it, model._orig_mod"),
        (nn.DataParallel, "save what is inside of it, model.module"),
    ],
)
def test_weights_named_by_a_wrapper(tmp_path: Path, wrap: Callable[..., Any], mend: str) -> None:
    """The model was trained from random numbers, exit status 0 and nothing on stderr."""
    message = told(saved(tmp_path / "a", wrapped(wrap)))
    assert "lack lm_head.weight, model.embed_tokens.weight and 10 more, which would be random" in message
    assert mend in message


def test_any_prefix_is_named(tmp_path: Path) -> None:
    message = told(saved(tmp_path / "a", lambda w: {f"student.net.{name}": tensor for name, tensor in w.items()}))
    assert "the names there begin with 'student.net.'" in message


def test_weights_of_an_adapter_around_the_model(tmp_path: Path) -> None:
    lora = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    message = told(saved(tmp_path / "a", wrapped(lambda model: get_peft_model(model, lora))))
    assert "lack lm_head.weight" in message
    assert "base_model.model." in message


@pytest.mark.parametrize("name", ["lm_head.weight", "model.norm.weight", "model.layers.0.mlp.up_proj.weight"])
def test_one_missing_weight(tmp_path: Path, name: str) -> None:
    assert f"lack {name}, which would be random: give a folder that was saved whole" in told(
        saved(tmp_path, without(name))
    )


def test_a_weight_of_another_shape(tmp_path: Path) -> None:
    message = told(saved(tmp_path, lambda w: w | {"model.norm.weight": torch.ones(3)}))
    assert "hold model.norm.weight (3,) in place of (16,): its config.json is not that of these weights" in message


def test_weights_that_have_no_place(tmp_path: Path) -> None:
    message = told(saved(tmp_path, lambda w: w | {"v_head.weight": torch.ones(3)}))
    assert "hold v_head.weight, which the model has no place for: if the model answers as it should" in message


def test_what_follows_from_the_configuration_is_no_weight(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0))
    old = {"transformer.h.0.attn.masked_bias": torch.zeros(1), "transformer.h.0.attn.bias": torch.zeros(1, 1, 4, 4)}
    loaded = load_model(saved(tmp_path / "a", lambda w: w | old, model), dtype="float32")
    assert torch.equal(loaded.transformer.wte.weight, model.transformer.wte.weight)
    rotary = {f"model.layers.0.self_attn.rotary_emb.{name}": torch.zeros(4) for name in ("inv_freq", "cos_cached")}
    loaded = load_model(saved(tmp_path / "b", lambda w: w | rotary), dtype="float32")
    assert not (set(rotary) & set(loaded.state_dict()))
    neo = GPTNeoConfig(vocab_size=60, hidden_size=16, num_layers=1, num_heads=2, attention_types=[[["local"], 1]])
    mask = {"transformer.h.0.attn.attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool)}
    load_model(saved(tmp_path / "c", lambda w: w | mask, GPTNeoForCausalLM(neo)), dtype="float32")


def test_long_names_stay_within_a_message(tmp_path: Path) -> None:
    told(saved(tmp_path, lambda w: {f"{'wrapper.' * 40}{name}": tensor for name, tensor in w.items()}))


def test_a_torn_file_of_weights_is_one_line(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "cannot be loaded as a causal language model" in told(folder)


def test_a_torn_adapter_of_a_stage_is_named(tmp_path: Path) -> None:
    base = saved(tmp_path / "base")
    adapted = get_peft_model(tiny(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path / "adapter")
    load_model(base, tmp_path / "adapter", dtype="float32")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if "lora_B" not in name}, file)
    with pytest.raises(InputError, match=r"adapter: the adapter cannot be loaded: Found missing adapter keys.*lora_B"):
        load_model(base, tmp_path / "adapter", dtype="float32")


def test_an_adapter_in_place_of_a_model_is_told_with_what_to_write(tmp_path: Path) -> None:
    """Transformers loads its base, and the adapter on top, without a word."""
    base = saved(tmp_path / "base")
    adapted = get_peft_model(tiny(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.peft_config["default"].base_model_name_or_path = base
    for with_config in (False, True):
        adapted.save_pretrained(tmp_path / "adapter")
        if with_config:
            adapted.config.save_pretrained(tmp_path / "adapter")
        with pytest.raises(InputError) as error:
            load_config_of(str(tmp_path / "adapter"))
        assert f"is an adapter of {base}, no model. Give model: {base} to begin without it" in str(error.value)
        assert "merge_and_unload().save_pretrained(FOLDER)" in str(error.value)


def test_an_adapter_of_the_hub_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has no config.json, and one that lies beside it, which transformers loads together."""
    get_peft_model(tiny(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    about = str(tmp_path / "adapter_config.json")
    monkeypatch.setattr("seekr.modeling.checks.find_adapter_config_file", lambda name: about)

    def no_config(*_: object, **__: object) -> None:
        raise OSError("owner/adapter does not appear to have a file named config.json")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", no_config)
    with pytest.raises(InputError, match="owner/adapter is an adapter of"):
        load_config_of("owner/adapter")
    model = tiny()
    model._hf_peft_config_loaded = True
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: (model, {}))
    with pytest.raises(InputError, match="owner/both is an adapter of"):
        load_model("owner/both", dtype="float32")


def test_a_run_in_place_of_a_model_is_told_with_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"is a run of seekr; a model of it lies in .*/stages/NN-TASK/model"):
        load_config_of(str(tmp_path))


@pytest.mark.parametrize("load", [load_config_of, load_tokenizer, lambda folder: load_model(folder, dtype="float32")])
def test_code_of_a_model_is_never_asked_about(
    tmp_path: Path, load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformers asked on stdin whether to run it, for fifteen seconds."""
    (tmp_path / "modeling_x.py").write_text("raise SystemExit('the code of the model was run')")
    code = {"AutoConfig": "modeling_x.X", "AutoModelForCausalLM": "modeling_x.X"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", "auto_map": code}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["modeling_x.X", None]}}))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on stdin"))
    with pytest.raises(InputError, match=r"code that it brings itself \(trust_remote_code\), and seekr runs none"):
        load(str(tmp_path))


@pytest.fixture
def small(tmp_path: Path, tiny_model_folder: Path) -> Callable[..., Any]:
    """Prepares a run of a model whose tokenizer was given more tokens than it has embeddings."""

    def run(change: Callable[[Any], None], rows: Any, test: Any = None) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
        change(tokenizer)
        model = load_model(str(tiny_model_folder), dtype="float32")
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        (tmp_path / "train.json").write_text(json.dumps(rows))
        (tmp_path / "test.json").write_text(json.dumps(test or rows))
        task = {"name": "a", "train": "train.json", "test": "test.json", "max_new_tokens": 3}
        raw = {"model": "model", "tasks": [task], "method": "sequential", "output_dir": "run"}
        return prepare(Request(resolve_paths(make_config(raw, "test"), tmp_path)))

    return run


ROWS = [{"prompt": "a", "answer": "b"}]


def test_a_run_says_that_its_end_token_is_not_the_models(small: Callable[..., Any]) -> None:
    def change(tokenizer: Any) -> None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(7)

    notes = small(change, ROWS).notes
    assert any("model: answers are trained to end with " in note for note in notes)


@pytest.mark.parametrize(
    ("change", "rows", "test", "named"),
    [
        (lambda t: t.add_tokens(["<more>"]), [{"prompt": "<more>", "answer": "b"}], None, "a token of task 'a'"),
        (lambda t: t.add_tokens(["<more>"]), [{"prompt": "x", "answer": "<more>"}], ROWS, "a token of task 'a'"),
        (lambda t: t.add_tokens(["<more>"]), ROWS, [{"prompt": "<more>", "answer": "b"}], "a token of task 'a'"),
        (lambda t: t.add_special_tokens({"pad_token": "<more>"}), ROWS, None, "the padding token"),
        (lambda t: t.add_special_tokens({"eos_token": "<more>"}), ROWS, None, "the end token"),
    ],
)
def test_a_token_without_an_embedding(
    small: Callable[..., Any], tmp_path: Path, change: Any, rows: Any, test: Any, named: str
) -> None:
    """A dry run passed, and the first step failed by an index."""
    with pytest.raises(InputError) as error:
        small(change, rows, test)
    assert f"and {named} has the id 259 ('<more>')" in str(error.value)
    assert "resize_token_embeddings" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_tokens_that_do_not_occur_need_no_embedding(small: Callable[..., Any]) -> None:
    assert small(lambda tokenizer: tokenizer.add_tokens(["<more>", "<and more>"]), ROWS)
