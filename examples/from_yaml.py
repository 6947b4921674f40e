"""A run from files, as on a command line: plan, learn, add a task, report: `python examples/from_yaml.py [FOLDER]`.

It writes rows and a configuration into FOLDER, and does what these commands do there:

    seekr plan config.yaml
    seekr learn config.yaml
    seekr learn --from run --task sort=data/sort --output-dir run-2
    seekr report run-2 --output report.html
"""

import json
import os
import sys
from pathlib import Path

from seekr.builtin import builtin_model, builtin_rows
from seekr.cli.main import main

CONFIG = f"""
model: {builtin_model()}
tasks:
  - {{name: span, train: data/span/train.jsonl, test: data/span/test.jsonl, separator: ""}}
  - {{name: upper, train: data/upper/train.jsonl, test: data/upper/test.jsonl, separator: ""}}
method: {{name: seekr}}
training: {{learning_rate: 5.0e-4, num_train_epochs: 1, per_device_train_batch_size: 16}}
output_dir: run
"""

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/from-yaml")
folder.mkdir(parents=True, exist_ok=True)
os.chdir(folder)
for task in ("span", "upper", "sort"):
    for split, count in (("train", 60), ("test", 10)):
        path = Path("data", task, f"{split}.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = builtin_rows(task, split, seed=0, count=count)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
Path("config.yaml").write_text(CONFIG, encoding="utf-8")

for command in (
    "plan config.yaml",
    "learn config.yaml",
    "learn --from run --task sort=data/sort --output-dir run-2",
    "report run-2 --output report.html",
):
    print(f"$ seekr {command}")
    status = main(command.split())
    if status:
        sys.exit(status)
