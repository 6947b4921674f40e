"""What a memory folder gives back, how damage and strangers are told, and that the same run writes the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import attention_definitions as by_definition
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from toy_tasks import toy_samples
from transformers import PreTrainedTokenizerFast

from seekr.attention.rows import QueryKeyRows
from seekr.attention.tap import Tap
from seekr.disk import tensors as tensor_files
from seekr.errors import InputError
from seekr.memory import writer as memory_file
from seekr.memory.reader import Memory
from seekr.memory.writer import MemoryWriter
from seekr.modeling.batches import collate
from seekr.modeling.fingerprints import fingerprint_model, fingerprint_tokenizer
from seekr.modeling.inputs import model_inputs
from seekr.modeling.losses import TopLogits

HEADS = {0: torch.tensor([1, 3]), 2: torch.tensor([0])}
SAMPLES = toy_samples(7)


def write(folder: Path, *, form: str = "exact", attention: bool = True, logits: bool = True) -> list[dict]:
    """A memory of seven samples; every second one keeps three queries only. Returns the teachers."""
    torch.manual_seed(0)
    model = by_definition.tiny_llama()
    writer = MemoryWriter(
        folder, SAMPLES, task="toy", tokenizer_fingerprint="tokenizer", model_fingerprint="model",
        heads=HEADS if attention else None, form=form,
    )  # fmt: skip
    teachers = []
    for index, sample in enumerate(SAMPLES):
        batch = collate([sample], 0)
        with torch.no_grad(), Tap(model, HEADS) as tap:
            found = model(**model_inputs(batch)).logits[0]
        positions = torch.tensor([0, 2, 3]) if index % 2 else None
        span = (0, len(sample.input_ids))
        layers = {
            layer: QueryKeyRows.of_call(tap.calls[layer], 0, span, kept, positions) for layer, kept in HEADS.items()
        }
        teachers.append({"layers": layers, "positions": positions, "logits": TopLogits.of_logits(found, 9, torch.half)})
        writer.add(
            index,
            attention=layers if attention else None,
            positions=positions if attention else None,
            logits=teachers[-1]["logits"] if logits else None,
        )
    writer.close()
    return teachers


@pytest.fixture(params=[1 << 28, 6000, 1], ids=["one shard", "some shards", "a shard each"])
def shard_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(memory_file, "_SHARD_BYTES", request.param)
    return int(request.param)


def test_everything_comes_back(tmp_path: Path, shard_bytes: int) -> None:
    teachers = write(tmp_path)
    shards = len(list(tmp_path.glob("teacher-*.safetensors")))
    assert shards == 1 if shard_bytes > 6000 else shards == 7 if shard_bytes == 1 else 1 < shards < 7
    memory = Memory.open(tmp_path, tokenizer_fingerprint="tokenizer", model_fingerprint="model")
    assert len(memory) == 7
    assert {layer: kept.tolist() for layer, kept in memory.heads.items()} == {0: [1, 3], 2: [0]}
    for index, (sample, teacher) in enumerate(zip(SAMPLES, teachers, strict=True)):
        kept = memory.encoded(index)
        assert np.array_equal(kept.input_ids, sample.input_ids)
        assert np.array_equal(kept.labels, sample.labels)
        assert kept.input_ids.dtype == kept.labels.dtype == np.int32
        logits = memory.logits(index)
        assert torch.equal(logits.ids, teacher["logits"].ids)
        assert torch.equal(logits.log_probs, teacher["logits"].log_probs)
        signals = memory.attention(index)
        found = signals.positions
        assert (None if found is None else found.tolist()) == (
            None if teacher["positions"] is None else teacher["positions"].tolist()
        )
        for layer, expected in teacher["layers"].items():
            rows = signals.rows(layer, torch.device("cpu"))
            assert isinstance(rows, QueryKeyRows)
            assert torch.equal(rows.query, expected.query)
            assert torch.equal(rows.key, expected.key)
            assert rows.geometry == expected.geometry
            assert torch.equal(rows.positions, expected.positions)


@pytest.mark.parametrize("form", ["auto", "exact", "query_key", "rows"])
def test_same_signals_same_bytes(tmp_path: Path, form: str) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, form=form)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["memory.json", "samples.safetensors", "teacher-00000.safetensors"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_summary_in_numbers(tmp_path: Path) -> None:
    write(tmp_path, form="rows")
    memory = Memory.open(tmp_path)
    assert memory.summary() == {
        "task": "toy",
        "samples": 7,
        "tokens": sum(len(sample.input_ids) for sample in SAMPLES),
        "answer_tokens": sum(int((sample.labels != -100).sum()) for sample in SAMPLES),
        "heads": 3,
        "layers": 2,
        "queries": 3,
        "forms": ["rows"],
        "bytes": sum(path.stat().st_size for path in tmp_path.iterdir()),
    }


def test_only_what_is_asked_for_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample's part is read by name from a memory map; the rest of the file is left alone."""
    monkeypatch.setattr(memory_file, "_SHARD_BYTES", 1)
    write(tmp_path)
    read: list[str] = []
    plain_open = tensor_files.safe_open

    class Watched:
        def __init__(self, path: Path, framework: str) -> None:
            self.path, self.inner = path, plain_open(path, framework=framework)

        def get_tensor(self, name: str) -> torch.Tensor:
            read.append(name)
            return self.inner.get_tensor(name)

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    monkeypatch.setattr(tensor_files, "safe_open", Watched)
    memory = Memory.open(tmp_path, verify=False)
    assert read == ["ends"]
    read.clear()
    attention = memory.attention(3)
    layers = [f"3/{layer}/{name}" for layer in (0, 2) for name in ("key", "key_of_head", "query")]
    assert sorted(read) == [*layers, "3/positions"]
    attention.rows(2, torch.device("cpu"))
    assert len(read) == 7
    memory.logits(5)
    assert sorted(read[7:]) == ["5/logit_ids", "5/logit_log_probs"]
    assert memory.tensors(6) == {}
    assert len(read) == 9


def test_a_memory_of_rows_alone(tmp_path: Path) -> None:
    write(tmp_path, attention=False, logits=False)
    memory = Memory.open(tmp_path)
    assert memory.heads == {}
    assert memory.summary()["queries"] is None
    assert np.array_equal(memory.encoded(6).input_ids, SAMPLES[6].input_ids)
    with pytest.raises(InputError, match="sample 0 has no teacher signals"):
        memory.logits(0)


def test_facts_are_noted_after_closing(tmp_path: Path) -> None:
    writer = MemoryWriter(tmp_path, SAMPLES[:1], task="toy", tokenizer_fingerprint="t", model_fingerprint="m")
    writer.close()
    writer.note(attention_floor=0.25)
    assert Memory.open(tmp_path).summary()["attention_floor"] == 0.25


@pytest.mark.parametrize("kind", ["tokenizer", "model"])
def test_a_stranger_is_refused(tmp_path: Path, kind: str) -> None:
    write(tmp_path)
    with pytest.raises(InputError, match=f"belongs to another {kind} .*{kind}, not other"):
        Memory.open(tmp_path, **{f"{kind}_fingerprint": "other"})


@pytest.mark.parametrize("name", ["samples.safetensors", "teacher-00003.safetensors"])
def test_damage_is_found(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_file, "_SHARD_BYTES", 1)
    write(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=f"{name}: checksum differs"):
        Memory.open(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name}: missing"):
        Memory.open(tmp_path, verify=False)


def test_an_index_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not found; the folder holds no memory"):
        Memory.open(tmp_path)
    write(tmp_path)
    index = tmp_path / "memory.json"
    about = json.loads(index.read_text())
    for text, said in (
        ("{\n\n nothing", "line 3: broken JSON"),
        ("[]", "version None"),
        (json.dumps(about | {"version": 99}), "version 99"),
        (json.dumps({key: value for key, value in about.items() if key != "shards"}), "shards: field required"),
    ):
        index.write_text(text)
        with pytest.raises(InputError, match=said):
            Memory.open(tmp_path)


def tokenizer_of(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder)


def test_fingerprint_of_a_tokenizer(tiny_model_folder: Path) -> None:
    first = fingerprint_tokenizer(tokenizer_of(tiny_model_folder))
    used = tokenizer_of(tiny_model_folder)
    used(["a", "some words"], padding=True, truncation=True, max_length=5)
    assert fingerprint_tokenizer(used) == first
    for change in ("token", "template", "eos"):
        other = tokenizer_of(tiny_model_folder)
        if change == "token":
            other.add_tokens(["<new>"])
        elif change == "template":
            other.chat_template = "{{ messages }}"
        else:
            other.eos_token = "<s>"
        assert fingerprint_tokenizer(other) != first


def test_fingerprint_of_a_model() -> None:
    model = by_definition.tiny_llama()
    first = fingerprint_model(model)
    assert fingerprint_model(by_definition.moved(model, 0.0)) == first
    assert fingerprint_model(by_definition.moved(model, 1e-4)) != first
    adapted: nn.Module = get_peft_model(
        model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], modules_to_save=["lm_head"])
    )
    assert fingerprint_model(adapted) == first
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.base_layer.weight.add_(0.01)
    assert fingerprint_model(adapted) != first
