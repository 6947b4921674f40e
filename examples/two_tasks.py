"""Two tasks one after another, by plain fine-tuning and by seekr: `python examples/two_tasks.py [FOLDER]`."""

import sys
from pathlib import Path

import seekr
from seekr.builtin import builtin_model, builtin_rows

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/two-tasks")
tasks = [
    seekr.Task(
        name,
        train=builtin_rows(name, "train", seed=0, count=120),
        test=builtin_rows(name, "test", seed=0, count=20),
        separator="",
    )
    for name in ("span", "upper")
]
runs = [
    seekr.learn(
        model=builtin_model(),  # or a folder, or a name on the hub
        tasks=tasks,
        method=method,
        training={"learning_rate": 5e-4, "num_train_epochs": 2, "per_device_train_batch_size": 16},
        output_dir=folder / name,
    )
    for name, method in (("plain", "sequential"), ("seekr", "seekr"))
]
for run in runs:
    print(run.folder.name, run.scores.matrix)  # row: after which task; column: the score of which task
for row in seekr.compare([run.folder for run in runs]).rows:
    spread = row.measure("overall_performance")
    print(row.method, None if spread is None else spread.mean)
