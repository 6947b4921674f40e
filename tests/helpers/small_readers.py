"""What reads each kind of text that people and runs write, one file at a time: for tests that make up such files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from seekr import Run, Task
from seekr.config.schema import load_config, make_tasks
from seekr.data.reading import read_split
from seekr.disk.files import with_own_hash
from seekr.errors import InputError, RunError
from seekr.memory.about import read_about
from seekr.methods import make_method
from seekr.runs.general_tasks import read_general
from seekr.runs.prepare import check_settings
from seekr.runs.verify import quick_faults, verify

CONFIG: dict[str, Any] = {
    "model": "model",
    "tasks": [
        {"name": "a", "train": "a.json", "test": "a.json"},
        {"name": "b", "train": "b.json", "metric": "rouge_l"},
    ],
    "method": {"name": "seekr", "replay_ratio": 0.1, "attention_weight": 10},
    "training": {"learning_rate": 1e-3, "num_train_epochs": 2},
    "lora": {"r": 2, "target_modules": ["q_proj"]},
    "output_dir": "run",
    "seed": 0,
}
TURNS = [{"role": "user", "content": "é"}, {"role": "assistant", "content": "x"}]
ROWS = [{"prompt": "a, b", "answer": "c\n"}, {"messages": TURNS, "references": ["x"]}]
ANSWERS = [
    {"prompt": "p", "prediction": "x", "references": ["x", "y"]},
    {"prompt": "p", "prediction": "", "references": ["x"]},
]
LOG = [
    {"step": 1, "kind": "task", "loss": 0.5, "task": 0.5, "learning_rate": 1e-3, "grad_norm": 1.0},
    {"step": 1, "kind": "replay", "loss": 0.7, "replay": 0.2, "logit": 0.3, "attention": 0.2},
]
GRAFTED = {
    "task": "a", "donor": "a", "model": "b", "heads": "random", "count": 3, "seeds": [0, 1], "rows": 5, "score": 1.0,
    "own_score": 2.0, "donor_score": 3.0, "error": None,
}  # fmt: skip
ABOUT = {
    "version": 2, "task": "a", "tokenizer": "t", "model": "m", "heads": {"0": [1]}, "samples": 1, "answer_tokens": [2],
    "samples_sha256": "0", "shards": [{"file": "teacher-0.safetensors", "samples": [0, 1], "sha256": "0"}],
    "layers": {"0": {"size": 8, "geometry": {}}}, "forms": [{"0": "top"}], "facts": {"attention_floor": 0.1},
}  # fmt: skip


def _text(*rows: Any) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


WHOLE: dict[str, bytes] = {
    "config.yaml": yaml.safe_dump(CONFIG).encode(),
    "rows.json": json.dumps(ROWS).encode(),
    "rows.jsonl": _text(*ROWS),
    "rows.csv": b'prompt,answer\r\n"a, b",c\r\n"""","two\nlines"\r\n',
    "run.json": _text({
        "config": CONFIG,
        "identity": {"seed": 0, "method": CONFIG["method"], "training": {}, "model": "m"},
        "unverified": ["00-a"],
        "versions": {"seekr": "0.1.0"},
        "model_fingerprint": "m",
        "max_length": 64,
        "changed": [{"after_stages": 1, "settings": {"x": [1, 2]}}],
    }),
    "scores.json": _text({
        "tasks": ["a", "b"], "metrics": ["accuracy", "rouge_l"], "base": [None, 1.0], "matrix": [[5.0, None], [4, 6.5]],
        "answers": {"0-0": "0" * 64},
    }),
    "general.json": _text([
        {"stage": "a", "task": "t", "version": "1", "metric": "acc", "score": 0.5, "error": None, "rows": 3},
    ]),
    "graft.json": _text({"rows": [GRAFTED]}),
    "predictions/0-0.jsonl": _text(*ANSWERS),
    "stages/00-a/log.jsonl": _text(*LOG),
    "stages/00-a/heads.json": b'{"0": [1, 2], "3": [0]}',
    "stages/00-a/manifest.json": _text(with_own_hash({"version": 1, "stage": "00-a", "previous": None, "files": {}})),
    "stages/00-a/memory/memory.json": _text(ABOUT),
}  # fmt: skip
"""A file of each kind as it may be; those below the first line of a run lie in its folder."""


def make_place(folder: Path) -> Path:
    """A folder in which each of the files is whole."""
    for name, content in WHOLE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for name in ("a.json", "b.json"):
        shutil.copyfile(folder / "rows.json", folder / name)
    (folder / "stages/00-a/stage.json").write_text('{"identity": {}, "rows": {}}')
    return folder


def use(place: Path, name: str) -> None:
    """Reads the file in every way in which it is read. Raises whatever is no InputError or RunError."""
    for read in _readers(name):
        try:
            read(place)
        except (InputError, RunError) as error:
            if len(str(error)) > 600 or not str(error).isprintable():
                raise AssertionError(f"no line of at most 600 characters: {str(error)!r}") from error


def _readers(name: str) -> Sequence[Callable[[Path], object]]:
    if name == "config.yaml":
        return [_configured]
    if name.startswith("rows."):
        return [lambda place: read_split(Task("t", train=place / name, test=place / name), "train", seed=0)]
    return _OF_A_RUN


def _configured(place: Path) -> None:
    config = load_config(place / "config.yaml")
    check_settings(config, make_method(config.method), make_tasks(config), config.training)


_OF_A_RUN: list[Callable[[Path], object]] = [
    lambda run: Run(run).config,
    lambda run: Run(run).status(),
    lambda run: (Run(run).scores.to_json(), Run(run).final, Run(run).cells),
    lambda run: Run(run).answers(0, 0),
    lambda run: Run(run).grafted,
    lambda run: [(stage.log, stage.heads) for stage in Run(run).stages],
    lambda run: (Run(run).attention_weights, Run(run).attention_drift),
    lambda run: list(quick_faults(run)),
    lambda run: verify(Run(run)),
    lambda run: read_about(run / "stages/00-a/memory"),
    read_general,
]
