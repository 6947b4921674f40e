"""Which own answers take the place of stored ones: correct, ended by themselves, as they were generated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attention_definitions as by_definition
import numpy as np
import pytest
import torch
from toy_tasks import context
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

import seekr.methods.on_policy_replay as on_policy
from seekr.data.answers import AnswerKey
from seekr.data.encoding import encode_all
from seekr.data.example import Example
from seekr.memory.reader import KeptSample, Memory
from seekr.methods import OnPolicyReplay, Replay, Seekr, TaskContext, make_method
from seekr.methods.on_policy_replay import OwnAnswer
from seekr.modeling.generation import Generated

END = 2


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model_folder)


def rows_of(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]) -> list[KeptSample]:
    examples = [Example(prompt, answer, [answer], "row") for prompt, answer in pairs]
    return [KeptSample(row.input_ids, row.labels) for row in encode_all(examples, tokenizer, 64)]


def task(
    folder: Path, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], model: Any = None, **more: Any
) -> TaskContext:
    settings: dict[str, Any] = {
        "tokenizer": tokenizer,
        "prompts": [prompt for prompt, _ in pairs],
        "key_of": lambda place: AnswerKey([pairs[place][1]]),
        "max_new_tokens": 6,
    }
    rows = more.pop("rows", None) or rows_of(tokenizer, pairs)
    return context(folder, model or torch.nn.Linear(1, 1), rows, **{**settings, **more})


def answering(
    monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerBase, answers: list[dict[str, Any]]
) -> list:
    """The n-th call answers by the n-th table: prompt → text, None = cut. Returns what was asked."""
    asked: list[tuple[list[str], float | None]] = []

    def generate(
        model: Any, tokenizer_: Any, prompts: Any, *, temperature: float | None, **rest: Any
    ) -> list[Generated]:
        texts = [tokenizer.decode(prompt) for prompt in prompts]
        table = answers[len(asked)]
        asked.append((texts, temperature))
        found = []
        for text in texts:
            answer = next(value for key, value in table.items() if key in text)
            ended = not answer.endswith("…")
            ids = tokenizer(answer.rstrip("…"), add_special_tokens=False).input_ids
            found.append(Generated(ids, END if ended else None))
        return found

    monkeypatch.setattr(on_policy, "generate_tokens", generate)
    return asked


def own_answers(kept: Sequence[Any]) -> int:
    return sum(isinstance(row, OwnAnswer) for row in kept)


def test_correct_answers_replace_stored_ones_and_no_others(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [("p1", "yes"), ("p2", "yes"), ("p3", "yes"), ("earlier p4", "yes"), ("p5" * 30, "yes"), ("p6", "yes")]
    rows = rows_of(tokenizer, pairs)
    several = rows[3].labels.copy()
    several[1] = rows[3].input_ids[1]  # an earlier turn is an answer too
    rows[3] = KeptSample(rows[3].input_ids, several)
    words_behind = rows[5].labels.copy()
    words_behind[-1] = -100
    rows[5] = KeptSample(rows[5].input_ids, words_behind)
    stage = task(tmp_path / "0", tokenizer, pairs, rows=rows)
    # Exact match leaves white space aside, so an own answer may be correct and yet other tokens.
    asked = answering(monkeypatch, tokenizer, [{"p1": " yes \n", "p2": "no", "p3": "yes…"}])
    method = make_method({"name": "on_policy_replay", "replay_ratio": 1.0})
    method.remember(stage)
    assert len(asked) == 1
    assert [text[-2:] for text in [t.strip() for t in asked[0][0]]] == ["p1", "p2", "p3"]
    memory = Memory.open(tmp_path / "0" / "memory")
    assert memory.about["facts"] == {"own_answers": 1}
    own = memory.encoded(0)
    start = int((rows[0].labels != -100).argmax())
    expected = [*rows[0].input_ids[:start], *tokenizer(" yes \n", add_special_tokens=False).input_ids, END]
    assert own.input_ids.tolist() == expected
    assert own.labels.tolist() == [-100] * start + expected[start:]
    for place in range(1, 6):
        assert np.array_equal(memory.encoded(place).input_ids, rows[place].input_ids)
        assert np.array_equal(memory.encoded(place).labels, rows[place].labels)


def test_a_score_is_correct_from_a_threshold_on(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [("p1", "abcd"), ("p2", "abcd"), ("p3", "abcd")]
    for threshold, taken in ((0, 3), (50, 2), (75, 2), (76, 1), (100, 1)):
        answering(monkeypatch, tokenizer, [{"p1": "abcd", "p2": "abcx", "p3": "xyzw"}])  # 100, 75 and 0
        method = OnPolicyReplay(replay_ratio=1.0, correct_from=threshold)
        kept = method.kept_samples(task(tmp_path, tokenizer, pairs, metric="edit_similarity"))
        assert own_answers(kept) == taken


def test_the_first_correct_attempt_counts(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [("p1", "yes"), ("p2", "yes"), ("p3", "yes")]
    tables = [{"p1": "yes", "p2": "no", "p3": "no"}, {"p2": " yes", "p3": "no"}, {"p3": "no"}, {"p3": "yes"}]
    asked = answering(monkeypatch, tokenizer, tables)
    method = OnPolicyReplay(replay_ratio=1.0, attempts=3, temperature=0.7)
    kept = method.kept_samples(task(tmp_path, tokenizer, pairs))
    assert [(len(prompts), temperature) for prompts, temperature in asked] == [(3, None), (2, 0.7), (1, 0.7)]
    assert own_answers(kept) == 2
    assert tokenizer.decode(kept[1].input_ids, skip_special_tokens=True).endswith("p2 yes")


def test_answers_are_those_of_the_model(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, tiny_model_folder: Path
) -> None:
    """Token by token as the argmax of one forward a token; drawn ones differ, and are drawn by the seed."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder).eval()
    with torch.no_grad():
        model.lm_head.weight[END] = 0.9 * model.lm_head.weight.mean(0) + 0.1  # answers that end now and then
    pairs = [(f"prompt {index * 37}", "x") for index in range(24)]
    rows = rows_of(tokenizer, pairs)
    method = OnPolicyReplay(replay_ratio=1.0, correct_from=0)
    kept = method.kept_samples(task(tmp_path, tokenizer, pairs, model))
    replaced = 0
    for row, own in zip(rows, kept, strict=True):
        ids = row.input_ids[: int((row.labels != -100).argmax())].tolist()
        start = len(ids)
        while len(ids) < start + 6 and ids[-1] != END:
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        ended = ids[-1] == END and len(ids) > start
        replaced += ended
        assert own.input_ids.tolist() == (ids if ended else row.input_ids.tolist())
    assert own_answers(kept) == replaced
    assert 0 < replaced < 24

    def drawn(seed: int) -> list[list[int]]:
        many = OnPolicyReplay(replay_ratio=1.0, correct_from=0, attempts=20)
        rows = many.kept_samples(task(tmp_path, tokenizer, pairs, model, seed=seed))
        assert own_answers(rows) > replaced
        return [row.input_ids.tolist() for row in rows]

    assert drawn(1) == drawn(1) != drawn(2)


def test_signals_belong_to_the_own_answers(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an attention weight it is SEEKR on the replaced rows, to the byte."""
    pairs = [(f"p{index}", "yes") for index in range(6)]
    (model,) = [by_definition.tiny_llama(vocab_size=259)]
    settings = {"replay_ratio": 1.0, "attention_weight": 5.0, "logit_weight": 0.5, "head_budget": 4, "query_budget": 3}
    answering(monkeypatch, tokenizer, [{f"p{index}": " yes" if index % 2 else "no" for index in range(6)}])
    stage = task(tmp_path / "own", tokenizer, pairs, model)
    OnPolicyReplay(**settings).remember(stage)  # type: ignore[arg-type]
    kept = [Memory.open(tmp_path / "own" / "memory").encoded(place) for place in range(6)]
    same = task(tmp_path / "same", tokenizer, pairs, model, rows=kept)
    Seekr(**settings).remember(same)  # type: ignore[arg-type]
    for name in (
        "importance.safetensors",
        "heads.json",
        "memory/samples.safetensors",
        "memory/teacher-00000.safetensors",
    ):
        assert (tmp_path / "own" / name).read_bytes() == (tmp_path / "same" / name).read_bytes()
    assert Memory.open(tmp_path / "own" / "memory").summary()["own_answers"] == 3


def test_without_weights_it_is_replay_of_own_answers(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(f"p{index}", "yes") for index in range(6)]
    answering(monkeypatch, tokenizer, [{"p": "no"}] * 2)
    OnPolicyReplay(replay_ratio=0.5).remember(task(tmp_path / "own", tokenizer, pairs))
    Replay(replay_ratio=0.5).remember(task(tmp_path / "plain", tokenizer, pairs))
    files = {
        folder: {p.name: p.read_bytes() for p in (tmp_path / folder).rglob("*.safetensors")}
        for folder in ("own", "plain")
    }
    assert files["own"] == files["plain"]  # nothing is correct, so all is as it was
    OnPolicyReplay().check_model(torch.nn.Linear(1, 1))  # a model without attention will do
