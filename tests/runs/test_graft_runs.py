"""The grafting study: what is asked and kept, and what is refused in one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attention_definitions as by_definition
import pytest
from earlier_runs import as_of_before_manifests
from short_forms import generate_answers
from small_runs import SEEKR
from transformers import LlamaConfig, LlamaForCausalLM

from seekr import Run, Task
from seekr.attention.graft import Graft
from seekr.cli.main import main
from seekr.errors import InputError
from seekr.modeling.loading import load_model, load_tokenizer
from seekr.report.page import write_report
from seekr.report.summary import signed
from seekr.runs.execute import run_request
from seekr.runs.graft import RANDOM_SEEDS, _heads, graft
from seekr.runs.grafted import read_grafted
from seekr.runs.prepare import Request
from seekr.scoring.metrics import METRICS
from seekr.scoring.uncertainty import error_of_alike

pytestmark = pytest.mark.thorough

Learn = Callable[..., Run]
MakeTask = Callable[..., Task]


def rows_of(name: str) -> list[dict[str, str]]:
    return [{"prompt": f"{name * i} {i}=", "answer": f"{name}{i} = {i}{name}"} for i in range(1, 6)]


@pytest.fixture(scope="module")
def learned(learn: Learn, task: MakeTask, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three tasks, scored by how near an answer of ten tokens is, which moves with each. Not to be written to."""
    tasks = [task(name, metric="edit_similarity", test=rows_of(name), max_new_tokens=10) for name in "abc"]
    return learn(tmp_path_factory.mktemp("learned") / "run", tasks, method={**SEEKR, "head_budget": 3})


@pytest.fixture
def run(learned: Run, tmp_path: Path) -> Run:
    return Run(shutil.copytree(learned.folder, tmp_path / "run"))


def test_earlier_tasks_are_answered_with_their_old_maps_and_what_was_found_is_kept(run: Run) -> None:
    found = graft(run.folder)
    assert [(one.task, one.donor, one.model, one.heads) for one in found] == [
        (task, task, "c", heads) for task in "ab" for heads in ("all", "selected", "random")
    ]
    assert [(one.count, one.seeds) for one in found[:3]] == [(8, ()), (3, ()), (3, RANDOM_SEEDS)]
    for one in found:
        column = run.tasks.index(one.task)
        assert one.own_score == run.scores.matrix[2][column]
        assert one.donor_score == run.scores.matrix[column][column]
        assert one.rows == 5
    assert read_grafted(run.folder) == run.grafted == tuple(found)


def test_scores_are_those_of_a_graft_put_together_by_hand(run: Run) -> None:
    """Of stages whose weights are made large: the maps of so small a model are nearly uniform."""
    for place in (0, 2):
        folder = run.stages[place].model
        model = by_definition.sharpened(load_model(str(folder), dtype="float32"), 8.0)
        by_definition.moved(model, 0.3).save_pretrained(folder)
    as_of_before_manifests(run.folder)
    after_a, after_c = (load_model(str(run.stages[place].model), dtype="float32") for place in (0, 2))
    rows = rows_of("a")
    tokenizer = load_tokenizer(str(run.stages[0].model))
    prompts = [tokenizer(row["prompt"])["input_ids"] for row in rows]
    expected = {}
    for word, heads in (("all", None), ("selected", run.stages[0].heads), ("layers=1-1", {1: range(4)})):
        with Graft(after_c, after_a, heads):
            answers = generate_answers(after_c, tokenizer, prompts, max_new_tokens=10)
        expected[word] = METRICS["edit_similarity"](answers, [[row["answer"]] for row in rows], None)
    assert len(set(expected.values())) == 3
    for word, score in expected.items():
        (found,) = graft(run.folder, task="a", heads=word)
        assert found.score == score


def test_a_stage_grafted_onto_itself_gains_nothing(run: Run) -> None:
    for one in graft(run.folder, task="a", donor="c", model="c"):
        assert (one.donor_score, one.score, one.gain) == (one.own_score, one.own_score, 0)
        assert one.error == error_of_alike(one.rows)


def test_what_was_found_before_stays_and_the_same_question_is_answered_once(run: Run) -> None:
    graft(run.folder, task="b", heads="all")
    graft(run.folder, donor="a", model="b", heads="layers=0-1")
    graft(run.folder, task="b", heads="all")
    assert [(one.task, one.donor, one.model, one.heads) for one in run.grafted] == [
        ("a", "a", "b", "layers=0-1"), ("b", "b", "c", "all"),
    ]  # fmt: skip


def test_beside_a_torn_log_the_table_was_shown_and_the_command_failed(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.stages[2].folder / "log.jsonl").write_text("{torn\n")
    assert main(["graft", str(run.folder), "--task", "a", "--heads", "all"]) == 0
    shown = capsys.readouterr()
    assert "kept: " in shown.out
    assert shown.err.count("not shown: ") == 1
    assert "log.jsonl" in shown.err


def test_what_was_found_of_a_stage_goes_when_it_is_learned_again(finished: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(finished.folder, tmp_path / "run"))
    assert graft(run.folder, heads="all")
    again = run_request(Request(run.config, redo="b"))
    assert len(again.stages) == 2
    assert again.grafted == ()


@pytest.mark.parametrize("hashed", [True, False])
def test_a_damaged_run_is_not_grafted_as_another_one(
    hashed: bool, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """A last stage without its log was taken for a skill, and heads that were gone for none that were chosen."""
    if not hashed:
        as_of_before_manifests(run.folder)
    (run.folder / "stages/02-c/log.jsonl").unlink()
    assert {one.model for one in graft(run.folder, task="a", heads="all")} == {"c"}
    (run.folder / "stages/00-a/heads.json").unlink()
    with pytest.raises(InputError, match=r"00-a/heads\.json: missing"):
        graft(run.folder, task="a")


def test_random_heads_are_as_many_in_each_layer_and_drawn_by_their_seeds(run: Run) -> None:
    stage = run.stages[1]
    stage.__dict__["heads"] = {0: [1, 5, 6], 3: [2]}
    draws = _heads("random", stage, 4, 8)
    assert draws == _heads("random", stage, 4, 8)
    assert len({json.dumps(draw) for draw in draws}) == len(RANDOM_SEEDS) == 3
    for draw in draws:
        assert {layer: len(set(heads)) for layer, heads in draw.items()} == {0: 3, 3: 1}
        assert all(0 <= head < 8 for heads in draw.values() for head in heads)


def test_a_run_without_chosen_heads_is_grafted_whole_or_by_layers(learn: Learn, tmp_path: Path) -> None:
    """LoRA: the two stages are adapters of one base."""
    run = learn(tmp_path / "run", method="sequential", lora={"r": 2, "target_modules": ["q_proj", "v_proj"]})
    assert [one.heads for one in graft(run.folder)] == ["all"]
    with pytest.raises(InputError, match="no heads were selected for a by sequential; give --heads all or layers=a-b"):
        graft(run.folder, heads="selected")


def test_a_skill_has_the_maps_of_the_base_model_and_a_likelihood_no_error(
    learn: Learn, task: MakeTask, tmp_path: Path
) -> None:
    run = learn(tmp_path / "run", ["a", task("c", learn=False, metric="likelihood")])
    found = graft(run.folder, task="c")
    assert {(one.donor, one.model, one.error) for one in found} == {("c", "a", None)}
    assert found[0].donor_score == run.scores.matrix[0][0] != found[0].own_score
    assert len({found[0].own_score, *(one.score for one in found)}) == 4
    with pytest.raises(InputError, match="no task was learned before another one"):
        graft(run.folder)


def test_tasks_whose_weights_are_gone_are_named_and_left_out(
    learn: Learn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = learn(tmp_path / "run", "abc", keep_stages=2)
    assert {one.task for one in graft(run.folder, heads="all")} == {"b"}
    assert "not grafted: a: their weights are gone (keep_stages)" in capsys.readouterr().err


def unfinished(run: Run) -> None:
    shutil.rmtree(run.folder / "stages" / "02-c")


def older_weights_gone(run: Run) -> None:
    for name in ("00-a", "01-b"):
        shutil.rmtree(run.folder / "stages" / name / "model")


def another_weight(run: Run) -> None:
    path = run.folder / "stages" / "01-b" / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def torn(run: Run) -> None:
    (run.folder / "graft.json").write_text('{"rows": [{"task": "a"}]}')


def another_architecture(run: Run) -> None:
    folder = run.folder / "stages" / "00-a" / "model"
    config = LlamaConfig.from_pretrained(folder, num_hidden_layers=3)
    LlamaForCausalLM(config).save_pretrained(folder)
    as_of_before_manifests(run.folder)


@pytest.mark.parametrize(
    ("words", "spoil", "told"),
    [
        (["--task", "d"], None, "--task d: .* has no such task; valid are a, b, c"),
        (["--from", "d"], None, "--from d: "),
        (["--to", "d"], None, "--to d: "),
        (["--to", "a"], None, "no task was learned before another one"),
        (["--heads", "some"], None, "--heads some: give all, selected, random, or layers=a-b"),
        (["--heads", "layers=1-0"], None, "--heads layers=1-0: give all"),
        (["--heads", "layers=1-2"], None, "--heads layers=1-2: the model has 2 layers, 0 to 1"),
        (["--json", "nowhere/x.json"], None, "--json: "),
        ([], unfinished, "not finished, 2 of 3 stages are there"),
        ([], lambda run: shutil.rmtree(run.folder / "stages" / "01-b"), "stage 01 is missing"),
        ([], lambda run: (run.folder / "run.json").write_text("{"), "run.json, line 1: broken JSON"),
        ([], lambda run: (run.folder / "stages/02-c/model/model.safetensors").unlink(), "model.safetensors.*--redo c"),
        ([], another_weight, r"01-b/model/model\.safetensors.*--redo b"),
        ([], lambda run: shutil.rmtree(run.folder / "stages/02-c/model"), "weights of stage c are gone.*--redo c"),
        (["--from", "a"], lambda run: shutil.rmtree(run.folder / "stages/00-a/model"), "the weights of stage a are"),
        ([], older_weights_gone, "the weights of stage a are gone"),
        ([], torn, "graft.json: not the result of a grafting study"),
        ([], another_architecture, "maps of another model cannot be put into this one: layers 3 and 2"),
    ],
)
def test_what_cannot_be_grafted_is_one_line_and_status_2(
    run: Run, words: list[str], spoil: Any, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if spoil is not None:
        spoil(run)
    capsys.readouterr()
    kept = (run.folder / "graft.json").exists()
    assert main(["graft", str(run.folder), *words]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert re.search(told, err), err
    assert (run.folder / "graft.json").exists() == kept


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("joint", "joint learns all tasks at once, so that there is no earlier model"),
        ({"name": "l2p", "pool_size": 4, "prompt_tokens": 2, "prompts_per_input": 2}, "l2p learns virtual tokens"),
    ],
    ids=["joint", "l2p"],
)
def test_runs_without_an_earlier_model_of_the_same_form_are_refused(
    learn: Learn, tmp_path: Path, method: Any, told: str
) -> None:
    run = learn(tmp_path / "run", method=method)
    with pytest.raises(InputError, match=told):
        graft(run.folder)


def test_terminal_and_page_say_what_old_maps_bring_back(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    file = run.folder.parent / "found.json"
    assert main(["graft", str(run.folder), "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert json.loads(file.read_text())["rows"] == json.loads((run.folder / "graft.json").read_text())["rows"]
    said = [line for line in shown.splitlines() if "old maps" in line or "selected heads carry" in line]
    assert len(said) == 2
    assert main(["heads", str(run.folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == said
    page = write_report([run.folder], run.folder.parent / "report.html").read_text()
    for one in run.grafted:
        assert f"<td>{one.heads} {one.count}" in page
        assert f"<td>{signed(one.gain)}</td>" in page
    assert all(line[1:] in page for line in said)
