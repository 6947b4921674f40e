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

from typing import Any

from earlier_tasks import known_words, measure_earlier_tasks

from seekr import Run
from seekr.runs.graft import graft


def main(words: list[str] | None = None) -> None:
    arguments = known_words(__doc__, "rows a task that are answered; without it those of the suite").parse_args(words)
    if arguments.rows is not None:
        arguments.set.append(f"suite.{arguments.split}_rows={arguments.rows}")
    measure_earlier_tasks("grafting", arguments, grafted)


def grafted(run: Run, task: str) -> dict[str, Any]:
    return {"found": [one.to_json() for one in graft(run.folder, task=task)]}


if __name__ == "__main__":
    main()
