"""How rows that nobody kept fare beside those that are replayed, on a base model and a suite of `study.py`.

    python benchmarks/unseen_rows.py --base MODEL_FOLDER --suite nano5 --data DATA --output DIR --json results.jsonl \\
        --methods derpp seekr --seeds 0 1 --split eval --rows 40 --drop-weights

One line of JSON a run and earlier task: how far attention drifted since the task was learned, how likely the right
answers were then and are now, on the kept rows and on rows of the split; and whether the last model's answers are among
the task's labels at all. What stands in the JSON is not measured again, and a run that was stopped goes on. The models
of all stages stay until the run is measured; `--output` is not that of a `study.py` that has dropped them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from earlier_tasks import known_words, measure_earlier_tasks

from seekr import Run
from seekr.attention.change import measure_change_and_drift
from seekr.config.schema import make_tasks
from seekr.data.encoding import encode_all
from seekr.data.reading import read_split
from seekr.data.token_rows import TokenizedRow
from seekr.memory.reader import Memory
from seekr.modeling.batches import collate
from seekr.modeling.generation import answer_likelihoods
from seekr.modeling.loading import load_stage, load_tokenizer
from seekr.scoring.likelihood import likelihood

BATCH = 8
LABELS = 12  # a task with more different right answers has no labels


def main(words: list[str] | None = None) -> None:
    arguments = known_words(__doc__, "rows of the split that are measured for each task", default=40).parse_args(words)
    rows = arguments.rows
    measure_earlier_tasks("unseen_rows", arguments, lambda run, task: compare(run, task, rows), unseen_rows=rows)


def compare(run: Run, name: str, rows: int) -> dict[str, Any]:
    """The model of a task's stage and the last one, on the rows that it keeps and on the first of its test rows."""
    (stage,) = (stage for stage in run.stages if stage.name == name)
    base, stages = str(run.config.model), (stage, run.stages[-1])
    tokenizer, memory = load_tokenizer(base), Memory.open(stage.folder / "memory")
    (task,) = (task for task in make_tasks(run.config) if task.name == name)
    unseen = encode_all(read_split(task, "test", seed=run.seed)[:rows], tokenizer, run.record["max_length"])
    models = [load_stage(base, it.folder / "model", dtype="float32") for it in stages]
    kept = [memory.encoded(place) for place in range(len(memory))]
    return {
        "kept": _of_rows(models, kept, memory, tokenizer.pad_token_id),
        "unseen": _of_rows(models, unseen, memory, tokenizer.pad_token_id),
        "labels": _labels(run, name),
    }


def _of_rows(models: Sequence[Any], rows: Sequence[TokenizedRow], memory: Memory, pad: int | None) -> dict[str, Any]:
    """`drift`: nats, the mean over all heads, and over those that are kept, as the attention loss takes it."""
    tables = []
    for row in rows:
        batch = {name: tensor for name, tensor in collate([row], pad).items() if name != "labels"}
        tables.append(measure_change_and_drift(models[0], models[1], batch)[1])
    drift = torch.stack(tables).mean(0)
    chosen = [float(drift[layer, heads].mean()) for layer, heads in memory.heads.items()]
    then, now = (likelihood(answer_likelihoods(model, rows, pad, batch_size=BATCH)) for model in models)
    known = {"rows": len(rows), "drift": float(drift.mean()), "likelihood_then": then, "likelihood_now": now}
    return known | {"drift_of_kept_heads": sum(chosen) / len(chosen) if chosen else None}


def _labels(run: Run, task: str) -> dict[str, Any] | None:
    """Of the last model's answers to a task with few different right answers: how many are right, are another one of
    the task's, or are one of another task's."""
    last = len(run.stages) - 1
    answers = {name: run.answers(last, column) for column, name in enumerate(run.tasks)}
    labels = {name: {right for answer in its for right in answer.references} for name, its in answers.items()}
    if len(labels[task]) > LABELS:
        return None
    given = [answer.prediction.strip() for answer in answers[task]]
    others = set().union(*(known for name, known in labels.items() if name != task and len(known) <= LABELS))
    return {
        "answers": len(given),
        "right": sum(answer.right for answer in answers[task]),
        "own": sum(said in labels[task] for said in given),
        "of_others": sum(said in others - labels[task] for said in given),
    }


if __name__ == "__main__":
    main()
