"""Runs whose tasks are scored by the likelihood of right answers: what is measured, kept, read back and reported."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from seekr import Run, Task
from seekr.data.task_data import read_task
from seekr.errors import InputError
from seekr.methods import L2p
from seekr.modeling import generation as evaluation
from seekr.modeling.generation import answer_likelihoods
from seekr.modeling.loading import load_model
from seekr.report.examples import choose_examples
from seekr.report.page import write_report

pytestmark = pytest.mark.thorough

ROWS: list[dict[str, Any]] = [
    {"prompt": "what is up?", "answer": "the sky"},
    {"prompt": "say it in two ways:", "answer": ["one way", "another, longer way"]},
    {"prompt": "and nothing at all:", "answer": ""},
    {"prompt": "what is right is not what is learned:", "answer": "learned", "references": ["right"]},
]


def skill(name: str = "general") -> Task:
    return Task(name, train=ROWS, test=ROWS, metric="likelihood", learn=False)


def score_by_definition(folder: Path, base: Path) -> float:
    """100 / perplexity of the first answers of ROWS and their end tokens, text by text; the tokens are bytes."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    losses: list[float] = []
    for row in ROWS:
        answer = row["answer"] if isinstance(row["answer"], str) else row["answer"][0]
        prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
        right = tokenizer(f" {answer}", add_special_tokens=False)["input_ids"] if answer else []
        ids = torch.tensor([[*prompt, *right, tokenizer.eos_token_id]])
        with torch.no_grad():
            log_probs = model(ids).logits[0].double().log_softmax(-1)
        losses += [-float(log_probs[place - 1, ids[0, place]]) for place in range(len(prompt), ids.shape[1])]
    return 100 * math.exp(-sum(losses) / len(losses))


def test_scores_are_those_of_plain_transformers(
    learn: Callable[..., Run], tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = learn(tmp_path / "run", ["a", skill(), Task("also", train=ROWS, test=ROWS, metric="likelihood")], cells="all")
    scores = run.scores
    assert (scores.tasks, scores.metrics) == (["general", "a", "also"], ["likelihood", "accuracy", "likelihood"])
    models = [tiny_model_folder, *(stage.model for stage in run.stages if stage.model)]
    expected = [score_by_definition(model, tiny_model_folder) for model in models]
    assert scores.base[0] == scores.matrix[0][0] == scores.matrix[0][2] == pytest.approx(expected[0], rel=1e-5)
    assert scores.matrix[1][0] == scores.matrix[1][2] == pytest.approx(expected[1], rel=1e-5)
    assert scores.matrix[2][0] == pytest.approx(expected[2], rel=1e-5)
    assert len(set(expected)) == 3

    path = run.folder / "predictions" / "2-0.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [set(line) for line in lines] == [{"prompt", "references", "log_likelihood", "answer_tokens"}] * len(ROWS)
    assert [line["answer_tokens"] for line in lines] == [9, 9, 1, 9]
    assert lines[1]["references"] == ["one way", "another, longer way"]

    again: dict[str, Any] = {"cells": "all"}
    tasks = ["a", skill(), Task("also", train=ROWS, test=ROWS, metric="likelihood")]
    kept, measured = (run.folder / "scores.json").read_bytes(), path.read_bytes()
    (run.folder / "scores.json").unlink()
    with monkeypatch.context() as patched:  # nothing is measured again
        patched.setattr(evaluation, "answer_likelihoods", None)
        patched.setattr(evaluation, "generate_tokens", None)
        learn(run.folder, tasks, **again)
    assert (run.folder / "scores.json").read_bytes() == kept
    for torn in (measured.replace(b": 9}", b": 8}", 1), b'{"prompt": 1}\n', measured.replace(b"log_l", b"l")):
        path.write_bytes(torn)
        learn(run.folder, tasks, **again)
        assert path.read_bytes() == measured

    examples = choose_examples(run)
    assert [one.task for one in examples] == ["a"]
    page = write_report([run.folder], tmp_path / "page.html").read_text()
    assert "<small>likelihood</small>" in page


def test_rows_are_cut_as_in_training_and_named(tiny_model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    rows = [*ROWS, {"prompt": "a" * 30, "answer": "b"}, {"prompt": "c", "answer": "d" * 30}]
    task = Task("x", train=rows, test=rows, metric="likelihood", max_new_tokens=1000)
    data = read_task(task, tokenizer, 20, seed=0)
    assert [(row.input_ids.tolist(), row.labels.tolist()) for row in data.test_rows] == [
        (row.input_ids.tolist(), row.labels.tolist()) for row in data.samples
    ]
    assert data.test_prompts == []
    assert [line for line in data.warnings() if "test" in line] == [
        "3 of 6 test prompts were cut from the left, after their first token, to fit max_length",
        "1 of 6 test answers were longer than max_length and are scored without their end",
        "1 of 6 test answers are empty: their end token alone is scored",
        "6 of 6 test rows are trained on too, so that their score is no measure of new ones",
    ]
    whole = read_task(task, tokenizer, 100, seed=0)
    assert [line for line in whole.warnings() if "cut" in line] == []
    assert whole.identity["test"] != data.identity["test"]


def test_the_length_of_answers_is_no_matter_but_the_metric_is(learn: Callable[..., Run], tmp_path: Path) -> None:
    def tasks(**more: Any) -> list[Task]:
        return [Task("x", **{"train": ROWS, "test": ROWS, "metric": "likelihood", "max_new_tokens": 7, **more})]

    settings: dict[str, Any] = {"method": "sequential"}
    first = learn(tmp_path / "run", tasks(), **settings).scores
    assert learn(tmp_path / "run", tasks(max_new_tokens=1000), **settings).scores == first
    with pytest.raises(InputError, match=r"tasks\.x\.test is likelihood of .* there and .* here"):
        learn(tmp_path / "run", tasks(metric="accuracy"), **settings)


def test_own_answers_cannot_be_judged_by_it(
    learn: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answers of the data are replayed then, and the run says so."""
    settings = {"replay_ratio": 0.5}
    tasks = [skill(), "a"]
    own = learn(tmp_path / "own", tasks, method={"name": "on_policy_replay", "correct_from": 0.0, **settings})
    assert "seekr: task general: the answers of the data are replayed: metric likelihood" in capsys.readouterr().err
    plain = learn(tmp_path / "plain", tasks, method={"name": "replay", **settings})
    kept = [run.stages[0].memory for run in (own, plain)]
    assert kept[0] is not None
    assert kept[1] is not None
    assert kept[0].summary()["own_answers"] == 0
    assert len(kept[0]) == len(kept[1]) == 2
    for place in range(2):
        assert (kept[0].encoded(place).input_ids == kept[1].encoded(place).input_ids).all()


def test_l2p_chooses_its_prompts_by_what_is_asked(tiny_model_folder: Path) -> None:
    """And must not look at the answer, as it does where it is not told where the prompt ends."""
    method = L2p(pool_size=40, prompt_tokens=2, prompts_per_input=3)
    base = load_model(str(tiny_model_folder), dtype="float32")
    task = Task("x", train=ROWS, test=ROWS, metric="likelihood")
    rows = read_task(task, AutoTokenizer.from_pretrained(tiny_model_folder), 58, seed=0).test_rows
    plain = answer_likelihoods(
        base, rows, 0, batch_size=2, inputs=lambda batch: method.form.inputs_with_answers(base, batch)
    )
    assert plain == answer_likelihoods(base, rows, 0, batch_size=2)
    model: Any = method.form.adapt(base, None)
    with torch.no_grad():
        model.encoder.embedding.weight.mul_(30)

    def one_by_one(row: Any, **more: Any) -> float:
        ids, labels = (torch.from_numpy(part).long()[None] for part in (row.input_ids, row.labels))
        mask = torch.ones_like(ids)
        with torch.no_grad():
            logits = model(ids, mask, **{name: mask * make(labels) for name, make in more.items()}).logits
        answer = labels[0, 1:] != -100
        return float(logits[0, :-1].double().log_softmax(-1)[answer].gather(-1, labels[0, 1:][answer][:, None]).sum())

    found = answer_likelihoods(
        model, rows, 0, batch_size=3, inputs=lambda batch: method.form.inputs_with_answers(model, batch)
    )
    expected = [one_by_one(row, query_mask=lambda labels: labels == -100) for row in rows]
    assert [one.log_likelihood for one in found] == pytest.approx(expected, rel=1e-5)
    assert [one_by_one(row) for row in rows] != pytest.approx(expected, rel=1e-4)


def test_no_number_of_new_tokens_resumes(learn: Callable[..., Run], tmp_path: Path) -> None:
    """A task of likelihood keeps no number of them to go on with."""
    tasks = [
        Task("l", train=ROWS, test=ROWS, metric="likelihood", max_new_tokens=None, learn=False),
        Task("n", train=ROWS, test=ROWS, max_new_tokens=None),
    ]
    scores = learn(tmp_path / "run", tasks).scores
    assert learn(tmp_path / "run", tasks).scores == scores
