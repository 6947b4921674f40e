"""Shipped recipes: what they say, how they are put together, and a dry run of every one of them."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiers import thorough
from transformers import TrainingArguments

from seekr import Run
from seekr.cli.main import main
from seekr.config.recipes import merge, read_recipe, read_recipes, recipe_names
from seekr.config.schema import load_recipes, make_tasks
from seekr.data.presets import PRESETS
from seekr.methods import METHODS, make_method

BENCHMARKS = [name for name in recipe_names() if name in PRESETS]
METHOD_RECIPES = [name for name in recipe_names() if name not in PRESETS]
SHARED_DATA = {"trace": "trace_reasoning", "superni": "superni"}

# Of the tiny model's 64 positions, soft prompts of eight tasks take these.
PROMPTS = {"l2p": 25, "progressive_prompts": 16, "lfpt5": 22}

Learn = Callable[..., tuple[int, str, str]]


@pytest.fixture
def learn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_folder: Path
) -> Learn:
    """`seekr learn` in a folder that holds `model` and, in data/<preset>, rows; returns status, stdout and stderr."""
    (tmp_path / "model").symlink_to(tiny_model_folder)
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        for preset in PRESETS:
            if any(f"data/{preset}" in word for word in words) and not (tmp_path / "data" / preset).is_dir():
                write_rows(tmp_path / "data" / preset, PRESETS[preset].names)
        capsys.readouterr()
        status = main(["learn", *words])
        return status, *capsys.readouterr()

    return run


def write_rows(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        for split, count in (("train", 5), ("test", 2)):
            rows = [{"prompt": f"{i}:", "answer": f"{i % 2}"} for i in range(count)]
            (folder / name / f"{split}.json").write_text(json.dumps(rows))


def words(*recipes: str, benchmark: str | None = None) -> list[str]:
    """A command line that names these recipes and what they leave open, for the tiny model."""
    named = [word for recipe in recipes for word in ("--recipe", recipe)]
    data = [f"tasks.data=data/{benchmark}", "tasks.max_new_tokens=4"] if benchmark else []
    return [*named, "model=model", *data]


def planned_tasks(out: str) -> list[str]:
    """The tasks in the table of a dry run, in its order."""
    return re.findall(r"^ \d+ +(\S+) ", out, flags=re.MULTILINE)


def test_there_is_a_recipe_for_every_benchmark_order_and_both_forms_of_the_method() -> None:
    assert set(BENCHMARKS) == set(PRESETS)
    assert METHOD_RECIPES == ["paper", "released-code"]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize("method", [None, *thorough(*METHOD_RECIPES)])
def test_every_recipe_on_small_rows(learn: Learn, tmp_path: Path, benchmark: str, method: str | None) -> None:
    recipes = [benchmark, method] if method else [benchmark]
    status, out, err = learn(*words(*recipes, benchmark=benchmark), "--dry-run")
    assert (status, err) == (0, "")
    assert planned_tasks(out) == list(PRESETS[benchmark].names)
    assert str(tmp_path / "runs" / f"{'-'.join(recipes)}-seekr") in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_joint_trains_for_as_long_as_the_other_methods(benchmark: str) -> None:
    """It takes the epochs of `training`: where a recipe named none, it had transformers' 3 beside SuperNI's 10."""
    epochs = [task["num_train_epochs"] for task in PRESETS[benchmark].tasks]
    assert read_recipe(benchmark)["training"]["num_train_epochs"] == statistics.mode(epochs)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_recipe_on_the_published_rows(shared: Path, learn: Learn, benchmark: str) -> None:
    """Long sequence is not there: one line says so."""
    data = shared / "data" / SHARED_DATA.get(benchmark.split("-")[0], "superni")
    limits = ["tasks.train_limit=8", "tasks.test_limit=2", "--dry-run"]
    model = f"model={shared / 'models' / 'nano-instruct'}"
    status, out, err = learn("--recipe", benchmark, model, f"tasks.data={data}", *limits)
    if benchmark.startswith("long"):
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert all(name in err for name in PRESETS[benchmark].names)
        return
    assert (status, err) == (0, "")
    assert planned_tasks(out) == list(PRESETS[benchmark].names)


def test_rows_that_the_published_plain_version_lacks(shared: Path, learn: Learn) -> None:
    model, data = shared / "models" / "nano-instruct", shared / "data" / "trace_500"
    status, _, err = learn("--recipe", "trace-order-1", f"model={model}", f"tasks.data={data}", "--dry-run")
    assert status == 2
    assert "lacks MeetingBank/train in" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("method", [name for name in METHODS if name != "general_replay"])  # no recipe has a skill
def test_one_word_changes_the_method(learn: Learn, method: str) -> None:
    changes = [f"method.name={method}", *(["method.prompt_tokens=2"] if method == "progressive_prompts" else [])]
    for recipes in (["trace-order-1"], ["trace-order-1", "paper"]):
        status, out, err = learn(*words(*recipes, benchmark="trace-order-1"), *changes, "--dry-run")
        assert (status, err) == (0, "")
        assert f"method      {method}" in out
        assert f"{64 - PROMPTS.get(method, 0)} tokens at most" in out
        assert f"{'-'.join(recipes)}-{method}" in out


def test_paper_and_released_code_differ_where_the_design_says() -> None:
    paper, released = (read_recipe(name) for name in METHOD_RECIPES)
    assert paper["method"].keys() == released["method"].keys()  # whichever comes later wins whole
    assert paper["training"] == released["training"]
    differing = {key: (paper["method"][key], released["method"][key]) for key in paper["method"]}
    assert {key: both for key, both in differing.items() if both[0] != both[1]} == {
        "importance": ("product_of_sums", "sum_of_products"),
        "norm": ("frobenius", "mean_square"),
        "entries": ("visible", "all"),
        "logit_shift": (True, False),
        "reduction": ("per_sample", "per_layer"),
        "query_budget": (100, None),
        "replay_choice": ("random", "first"),
    }
    own, default = make_method(paper["method"]).settings(), make_method("seekr").settings()
    assert {key: own[key] for key in own if own[key] != default[key]} == {
        "replay_ratio": 0.01,
        "replay_passes": None,
        "attention_weight": 1000.0,
    }


def test_orders_replay_by_the_papers_rule() -> None:
    """What they computed before there were replay passes, an automatic weight and 20 rows of a small task."""
    for name in set(recipe_names()) - set(METHOD_RECIPES):
        method = read_recipe(name)["method"]
        assert method == {"name": "seekr", "replay_ratio": 0.01, "replay_passes": None, "attention_weight": 1000.0}


@pytest.mark.parametrize("name", recipe_names())
def test_training_is_what_is_quoted(name: str, tmp_path: Path) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), **read_recipe(name)["training"])
    batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    assert batch == (32 if "15" in name or "long" in name else 128)
    assert (arguments.learning_rate, arguments.lr_scheduler_type, arguments.max_grad_norm) == (1e-5, "constant", 1.0)
    if batch == 128:
        assert (arguments.adam_beta1, arguments.adam_beta2) == (0.9, 0.95)


def test_later_ones_win_and_words_over_all() -> None:
    assert merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"c": 3}, "d": [2], "e": None}) == {
        "a": {"b": 1, "c": 3},
        "d": [2],
        "e": None,
    }
    both = read_recipes(["paper", "released-code"])
    assert both["method"] == read_recipe("released-code")["method"]
    assert read_recipes(["released-code", "paper"])["method"] == read_recipe("paper")["method"]
    mixed = read_recipes(["trace-order-1", "superni-order-2", "paper"])
    assert mixed["tasks"] == {"preset": "superni-order-2"}
    assert mixed["method"] == read_recipe("paper")["method"]


def test_words_and_paths(learn: Learn, tmp_path: Path) -> None:
    learn("--recipe", "superni-order-1", "model=model", "tasks.data=data/superni-order-1", "--dry-run")
    config = load_recipes(
        ["superni-order-1", "paper"],
        [
            "model=./model",
            "tasks.data=data/superni-order-1",
            "tasks.only=[task363,task1572]",
            "method.query_budget=7",
            "training.num_train_epochs=3",
            "output_dir=there",
        ],
    )
    assert config.model == str(tmp_path / "model")
    assert config.output_dir == str(tmp_path / "there")
    assert [task["name"] for task in config.tasks] == ["task1572", "task363"]
    assert config.tasks[0]["train"] == str(tmp_path / "data" / "superni-order-1" / "task1572" / "train.json")
    assert config.method["query_budget"] == 7
    assert config.training["num_train_epochs"] == 3


def test_a_preset_in_a_file_looks_from_the_file(learn: Learn, tmp_path: Path) -> None:
    learn(*words("trace-order-1", benchmark="trace-order-1"), "--dry-run")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "config.yaml").write_text(
        "model: ../model\noutput_dir: ../out\n"
        "tasks: {preset: trace-order-1, data: ../data/trace-order-1, max_new_tokens: 4, only: [FOMC, C-STANCE]}\n"
    )
    status, out, err = learn("sub/config.yaml", "--dry-run")
    assert (status, err) == (0, "")
    assert planned_tasks(out) == ["C-STANCE", "FOMC"]  # the preset's order, not that of `only`
    status, out, _ = learn("sub/config.yaml", "tasks.preset=trace-order-2", "--dry-run")
    assert (status, planned_tasks(out)) == (0, ["FOMC", "C-STANCE"])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--recipe", "papr"], "did you mean 'paper'?"),
        (["--recipe", "../paper"], "there is no such recipe"),
        (["--recipe", "paper"], "the key 'model' is missing; say model=FOLDER"),
        (["--recipe", "paper", "model=model"], "the key 'tasks' is missing"),
        (["--recipe", "trace-order-1", "model=model"], "say tasks.data=FOLDER"),
        (["--recipe", "trace-order-1", "model=model", "tasks.data=nowhere"], "nowhere: no such folder"),
        (["--recipe", "trace-order-1", "model=model", "tasks.dta=x"], "unknown key 'dta'"),
        (["config.yaml", "--recipe", "paper"], "do not go together"),
        (["--recipe", "paper", "--from", "run", "--task", "a=b"], "leave it out"),
        (["--recipe"], "expected one argument"),
        (["--recipe", "paper", "model"], "do not go together"),
        (["--recipe", "paper", "modl=model"], "did you mean 'model'?"),
    ],
)
def test_wrong_input(learn: Learn, given: list[str], told: str, tmp_path: Path) -> None:
    status, out, err = learn(*given)
    assert (status, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_run_of_a_recipe_is_one_like_any_other(learn: Learn, tmp_path: Path) -> None:
    short = ["tasks.only=[task363,task073]", "tasks.train_limit=4", "tasks.num_train_epochs=1"]
    given = [*words("superni-order-1", "paper", benchmark="superni-order-1"), *short, "method.replay_ratio=0.5"]
    status, _, _ = learn(*given)
    assert status == 0
    run = Run(tmp_path / "runs" / "superni-order-1-paper-seekr")
    assert [stage.name for stage in run.stages] == ["task363", "task073"]
    assert [task["metric"] for task in run.config.tasks] == ["superni_accuracy", "superni_rouge_l"]
    asked = load_recipes(["superni-order-1", "paper"], given[4:])
    assert make_tasks(run.config) == make_tasks(asked)
    assert (run.config.model, run.config.output_dir) == (asked.model, asked.output_dir)
    assert learn(*given)[0] == 0  # finished: nothing left to do
    assert learn(*given[:-1], "method.replay_ratio=0.25")[0] == 2  # the same folder with another identity


@pytest.mark.parametrize("form", ["file", "recipe"])
def test_all_rows_of_a_preset_trained_as_one(learn: Learn, form: str, tmp_path: Path) -> None:
    """Its tasks have epochs of their own, which joint training cannot have."""
    given: list[Any] = words("trace-order-1", benchmark="trace-order-1")
    if form == "file":
        learn(*given, "--dry-run")
        (tmp_path / "config.yaml").write_text(
            "model: model\noutput_dir: out\nmethod: joint\ntraining: {num_train_epochs: 2}\n"
            "tasks: {preset: trace-order-1, data: data/trace-order-1, max_new_tokens: 4}\n"
        )
        given = ["config.yaml"]
    status, out, err = learn(*given, *(["method.name=joint"] if form == "recipe" else []), "--dry-run")
    assert (status, err) == (0, "")
    assert "num_train_epochs 2" in out if form == "file" else "num_train_epochs 5" in out
