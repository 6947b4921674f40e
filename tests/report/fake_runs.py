"""Run folders as a learner leaves them, with numbers made up from a seed."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

Matrix = list[list[float | None]]
HOSTILE = '</script><b>bold</b><img src=x onerror="alert(1)"> & {{ 7 * 7 }}'


def write_run(
    folder: Path,
    *,
    method: str = "seekr",
    seed: int = 0,
    tasks: Sequence[str] = ("copy", "sort", "add"),
    matrix: Matrix | None = None,
    skill: str | None = None,
    settings: dict | None = None,
    steps: int = 40,
    layers: int = 4,
    heads: int = 8,
    prompt: str = "sort these: 3 1 2",
) -> Path:
    """A finished run; `matrix` None draws one with the paper's cells. Joint: one stage, the last row."""
    random = np.random.default_rng([seed, len(method), *method.encode()])
    folder.mkdir(parents=True)
    config = {
        "model": "tiny-llama",
        "tasks": [{"name": name, "train": f"{name}/train.json"} for name in ([skill] if skill else []) + list(tasks)],
        "method": {"name": method, "replay_ratio": 0.01, **(settings or {})},
        "training": {"learning_rate": 1e-3, "num_train_epochs": 2},
        "seed": seed,
        "output_dir": str(folder.name),
    }
    identity = {
        "model": "sha256:1f",
        "seed": seed,
        "method": config["method"],
        "training": config["training"],
    }
    known = {"versions": {"torch": "2.13.0"}, "model_fingerprint": "sha256:1f", "max_length": 64}
    _json(folder / "run.json", {"config": config, "identity": identity, **known})
    if matrix is None:
        matrix = drawn_matrix(random, len(tasks), joint=method == "joint")
    write_scores(folder, tasks, matrix)
    names = ["joint"] if method == "joint" else [*([skill] if skill else []), *tasks]
    for index, name in enumerate(names):
        measured = method == "seekr"
        _stage(
            folder / "stages" / f"{index:02}-{name}",
            random,
            name == skill,
            index,
            steps,
            layers,
            heads,
            measured,
        )
    for i, row in enumerate(matrix):
        for j, score in enumerate(row):
            if score is not None:
                write_answers(folder, i, j, score, prompt)
    return folder


def drawn_matrix(random: np.random.Generator, tasks: int, *, joint: bool = False) -> Matrix:
    """The diagonal and the last row, as far as they are measured by the paper's cells."""
    matrix: Matrix = [[None] * tasks for _ in range(tasks)]
    for i in range(tasks):
        if not joint:
            matrix[i][i] = float(random.uniform(60, 95))
    matrix[-1] = [float(random.uniform(15, 90)) for _ in range(tasks)]
    return matrix


def write_scores(folder: Path, tasks: Sequence[str], matrix: Matrix) -> None:
    """scores.json, its measures by their definitions; those of a matrix without its last row are null."""
    last = len(tasks) - 1
    done = None not in matrix[-1]
    moved = [matrix[-1][j] - matrix[j][j] for j in range(last) if done and matrix[j][j] is not None]
    lost = (
        [max(row[j] for row in matrix[:-1] if row[j] is not None) - matrix[-1][j] for j in range(last)] if moved else []
    )
    scores = {
        "tasks": list(tasks),
        "metrics": ["accuracy"] * last + ["rouge_l"],
        "base": [None] * len(tasks),
        "matrix": matrix,
        "overall_performance": sum(matrix[-1]) / len(tasks) if done else None,
        "backward_transfer": sum(moved) / last if moved else None,
        "backward_transfer_over_all_tasks": sum(moved) / len(tasks) if moved else None,
        "forgetting": sum(lost) / last if lost else None,
        "forward_transfer": None,
    }
    _json(folder / "scores.json", scores)


def write_answers(folder: Path, i: int, j: int, score: float, prompt: str) -> None:
    path = folder / "predictions" / f"{i}-{j}.jsonl"
    path.parent.mkdir(exist_ok=True)
    rows = [
        {
            "prompt": f"{prompt} #{number}",
            "prediction": "1 2 3" if number < score / 10 else f"3 2 1 {HOSTILE}",
            "references": ["1 2 3"],
        }
        for number in range(10)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _stage(
    folder: Path,
    random: np.random.Generator,
    skill: bool,
    index: int,
    steps: int,
    layers: int,
    heads: int,
    measured: bool,
) -> None:
    folder.mkdir(parents=True)
    if measured:
        sensitivity = random.gamma(1.2, size=(layers, heads)).astype(np.float32)
        sensitivity /= sensitivity.sum(1, keepdims=True)
        tables = {"sensitivity": sensitivity}
        if not skill:
            tables["change"] = random.gamma(2.0, size=(layers, heads)).astype(np.float32)
        tables["importance"] = sensitivity * tables.get("change", np.float32(1))
        save_file(tables, folder / "importance.safetensors")
        order = np.argsort(-tables["importance"], axis=None)[: max(1, layers * heads // 8)]
        chosen: dict[str, list[int]] = {}
        for layer, head in sorted(zip(*np.unravel_index(order, (layers, heads)), strict=True)):
            chosen.setdefault(str(layer), []).append(int(head))
        _json(folder / "heads.json", chosen)
    if not skill:
        _log(folder / "log.jsonl", random, index, steps, measured)


def _log(path: Path, random: np.random.Generator, index: int, steps: int, measured: bool) -> None:
    lines = []
    for step in range(1, steps + 1):
        replay = index > 0 and step % 5 == 0
        progress = step / steps
        noise = float(np.exp(random.normal(0, 0.2)))
        losses = (
            {"replay": 0.4 * noise, "logit": 0.5 * noise} if replay else {"task": 3 * np.exp(-3 * progress) * noise}
        )
        if replay and measured:
            losses["attention"] = 1e-4 * noise * (1 + 300 * progress)
        line = {"step": step, "kind": "replay" if replay else "task", "loss": sum(losses.values()), **losses}
        if replay and step % 20 == 0:
            norms = {"replay": 1.0, "logit": 0.6 * noise, "attention": 2 * noise * progress}
            norms = {name: norms[name] for name in losses}
            line["gradient_share"] = {name: norm / sum(norms.values()) for name, norm in norms.items()}
        line |= {"learning_rate": 1e-3, "grad_norm": noise}
        lines.append(json.dumps(line) + "\n")
    path.write_text("".join(lines))


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))
