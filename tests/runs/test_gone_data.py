"""Old data may be gone: what is learned needs no training rows any more, and its answers tell its test rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shown import cells
from small_runs import Stop, StopAt, digests

from seekr import Run, Task
from seekr.cli.main import main
from seekr.errors import InputError
from seekr.runs.learn import evaluate

pytestmark = pytest.mark.thorough

Learn = Callable[..., Run]
Gone = Callable[[Path], None]


@pytest.fixture
def data(data_folder: Path, tmp_path: Path) -> Path:
    """A copy of the data that may be taken away."""
    return shutil.copytree(data_folder, tmp_path / "data")


@pytest.fixture
def make(data: Path) -> Callable[..., Task]:
    def make(name: str, **more: Any) -> Task:
        files = {"train": data / name / "train.json", "test": data / name / "test.json"}
        return Task(name, **{**files, "max_new_tokens": 3, **more})

    return make


@pytest.fixture(scope="module")
def straight(learn: Learn, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on tasks a, b and c whose data was always there. Not to be written to."""
    return learn(tmp_path_factory.mktemp("straight") / "run", "abc", cells="seen")


def changed(folder: Path) -> None:
    (folder / "train.json").write_text('[{"prompt": "other", "answer": "rows"}]')


def broken(folder: Path) -> None:
    (folder / "train.json").write_text("[{")


def deleted(folder: Path) -> None:
    (folder / "train.json").unlink()


def all_deleted(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("gone", [changed, deleted, all_deleted])
def test_a_later_task_is_learned_without_the_old_rows(
    learn: Learn, make: Callable[..., Task], data: Path, straight: Run, tmp_path: Path, gone: Gone
) -> None:
    learn(tmp_path / "run", [make("a"), make("b")], cells="seen")
    for name in "ab":
        gone(data / name)
    run = learn(tmp_path / "run", [make(name) for name in "abc"], cells="seen")
    assert digests(run.folder) == digests(straight.folder)
    assert run.scores.matrix == straight.scores.matrix
    assert digests(run.folder, "predictions/*") == digests(straight.folder, "predictions/*")


@pytest.mark.parametrize("gone", [broken, all_deleted])
def test_a_run_is_gone_on_from_and_evaluated_without_the_old_rows(
    learn: Learn, make: Callable[..., Task], data: Path, straight: Run, tmp_path: Path, gone: Gone
) -> None:
    learn(tmp_path / "run", [make("a"), make("b")], cells="paper")
    for name in "ab":
        gone(data / name)
    assert main(["learn", "--from", str(tmp_path / "run"), "--task", f"c={data / 'c'},max_new_tokens=3"]) == 0
    assert digests(tmp_path / "run-c", "stages/02-c/**/*.safetensors") == digests(
        straight.folder, "stages/02-c/**/*.safetensors"
    )
    evaluated = evaluate(tmp_path / "run", cells="all").scores
    assert None not in [*evaluated.base, *evaluated.matrix[0], *evaluated.matrix[1]]


def test_likelihoods_tell_the_rows_as_answers_do(
    learn: Learn, make: Callable[..., Task], data: Path, tmp_path: Path
) -> None:
    run = learn(tmp_path / "run", [make(name, metric="likelihood") for name in "ab"])
    before = evaluate(run.folder, cells="all").scores
    for cell in ("base-0", "1-0", "0-1"):
        (run.folder / "predictions" / f"{cell}.jsonl").unlink()
    for name in "ab":
        all_deleted(data / name)
    after = evaluate(run.folder, cells="all").scores
    assert (after.base, after.matrix) == (before.base, before.matrix)


def test_a_task_that_was_moved_is_named_by_its_new_place(
    learn: Learn, make: Callable[..., Task], data: Path, straight: Run, tmp_path: Path
) -> None:
    learn(tmp_path / "run", [make("a"), make("b")], cells="seen")
    shutil.move(data / "a", data / "elsewhere")
    moved = Task("a", train=data / "gone.json", test=data / "elsewhere" / "test.json", max_new_tokens=3)
    run = learn(tmp_path / "run", [moved, make("b"), make("c")], cells="seen")
    assert digests(run.folder) == digests(straight.folder)


def test_a_dry_run_counts_what_was_there(
    learn: Learn, make: Callable[..., Task], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn(tmp_path / "run", [make("a"), make("b")])
    again = ["learn", "--from", str(tmp_path / "run"), "--task", f"c={data / 'c'},max_new_tokens=3", "--dry-run"]
    shown = []
    for gone in (lambda: None, lambda: all_deleted(data / "a")):
        gone()
        capsys.readouterr()
        assert main(again) == 0
        out = capsys.readouterr().out
        shown.append([cells(out, str(place), name) for place, name in enumerate("abc")])
    assert shown[0] == shown[1]
    assert shown[1][0][3:5] == ["14", "3"]


def test_rows_that_came_from_python_are_not_asked_for_again(
    learn: Learn, data: Path, tmp_path: Path, straight: Run
) -> None:
    rows = {
        name: {split: json.loads((data / name / f"{split}.json").read_text()) for split in ("train", "test")}
        for name in "ab"
    }
    learn(tmp_path / "run", [Task(name, max_new_tokens=3, **rows[name]) for name in "ab"])
    assert main(["evaluate", str(tmp_path / "run"), "--cells", "all"]) == 0
    assert main(["learn", "--from", str(tmp_path / "run"), "--task", f"c={data / 'c'},max_new_tokens=3"]) == 0
    assert Run(tmp_path / "run-c").scores.matrix[2] == straight.scores.matrix[2]


def test_a_file_of_a_task_that_is_still_to_be_learned_is_needed(
    learn: Learn, make: Callable[..., Task], data: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        learn(tmp_path / "run", [make("a"), make("b")], callbacks=[StopAt(1, 2)])
    before = digests(tmp_path / "run", "**/*")
    for gone, told in ((broken, "broken JSON"), (deleted, "no such file")):
        gone(data / "b")
        with pytest.raises(InputError, match=told):
            learn(tmp_path / "run", [make("a"), make("b")])
        assert digests(tmp_path / "run", "**/*") == before


def test_changed_test_rows_of_a_finished_task_are_refused(
    learn: Learn, make: Callable[..., Task], data: Path, tmp_path: Path
) -> None:
    learn(tmp_path / "run", [make("a")])
    (data / "a" / "test.json").write_text('[{"prompt": "other", "answer": "rows"}]')
    with pytest.raises(InputError, match=r"tasks\.a\.test is \w+ there and \w+ here"):
        learn(tmp_path / "run", [make("a"), make("b")])


def test_chat_rows_cannot_be_asked_by_their_answers_alone(
    learn: Learn, make: Callable[..., Task], data: Path, tmp_path: Path, chat_model: Path
) -> None:
    """Their transcript is no prompt: what was scored stands, and more is refused before anything is trained."""
    for split in ("train", "test"):
        rows = json.loads((data / "a" / f"{split}.json").read_text())
        turns = [
            {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["answer"]}]}
            for row in rows
        ]
        (data / "a" / f"{split}.json").write_text(json.dumps(turns))
    run = learn(tmp_path / "run", [make("a")], model=chat_model)
    scores = run.scores.matrix
    all_deleted(data / "a")
    assert evaluate(run.folder).scores.matrix == scores
    before = digests(tmp_path / "run", "**/*")
    with pytest.raises(InputError, match=r"a/test\.json: no such file.*: put the file back"):
        learn(tmp_path / "run", [make("a"), make("b")], model=chat_model)
    assert digests(tmp_path / "run", "**/*") == before


@pytest.fixture
def chat_model(tiny_model_folder: Path, tmp_path: Path) -> Path:
    from transformers import AutoTokenizer

    folder = shutil.copytree(tiny_model_folder, tmp_path / "chat-model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'][0] ~ ':' ~ m['content'] ~ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    return folder
