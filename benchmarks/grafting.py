"""The grafting study of methods on a base model and a suite of `study.py`: old attention maps put into the last model.

    python benchmarks/grafting.py --base MODEL_FOLDER --suite smol6 --data DATA --output DIR --json results.jsonl \\
        --methods sequential unheld seekr --seeds 10 --split test --rows 40 --drop-weights

One line of JSON a run and earlier task. What stands in the JSON is not measured again, and a run that was stopped goes
on. `unheld` is `seekr` with attention_weight 0, that is DER++ whose heads are chosen and whose maps nothing holds:
there it can be seen whether the chosen heads are those that carry a task.

A row of an earlier task is answered by the two models, once more a set of heads (by both, since the donor has to read
along) and draw of random ones: 12 times where heads were selected, else 4. `--rows` takes the first rows of the split,
of learning's scores as well. The models of all stages stay until the run is measured; `--output` is not that of a
`study.py` that has dropped them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from json_rows import add
from study import Planned, drop_weights, for_each, learned, made_by, measured, parser, plan, told

from seekr.runs.graft import graft


def main(words: list[str] | None = None) -> None:
    known = parser(__doc__)
    known.add_argument("--rows", type=int, help="rows a task that are answered; without it those of the suite")
    known.add_argument("--drop-weights", action="store_true", help="delete the models of each run that is measured")
    arguments = known.parse_args(words)
    if arguments.rows is not None:
        arguments.set.append(f"suite.{arguments.split}_rows={arguments.rows}")

    def study(run: Planned) -> None:
        found = None
        for key in questions(run):
            if not measured(key, arguments.json):
                found = found or learned(run)[0]
                grafted = [one.to_json() for one in graft(found.folder, task=key["task"])]
                add({**key, "found": grafted, **made_by(found)}, arguments.json)
        if arguments.drop_weights:
            drop_weights(run.folder)

    with told("grafting"):
        for_each(plan(arguments), study, arguments)


def questions(run: Planned) -> list[dict[str, Any]]:
    """The key of each row of a run: a task that another one came after."""
    return [{**run.key, "task": Path(place).name} for place in run.suite.tasks[:-1]]


if __name__ == "__main__":
    main()
