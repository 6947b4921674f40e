"""A method of one's own, replay that keeps the rows with the longest answers: `python examples/own_method.py [DIR]`."""

import sys
from pathlib import Path

import seekr
from seekr.builtin import builtin_model, builtin_rows
from seekr.methods import Replay, TaskContext


class LongestAnswers(Replay):
    name = "longest_answers"

    def kept_places(self, context: TaskContext) -> list[int]:
        """Where the kept rows stand in the task's data, ascending."""

        def answer_tokens(place: int) -> int:
            return int((context.samples[place].labels != -100).sum())

        places = sorted(range(len(context.samples)), key=answer_tokens, reverse=True)
        return sorted(places[: self.kept_rows(len(places))])


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own-method")
tasks = [
    seekr.Task(
        name,
        train=builtin_rows(name, "train", seed=0, count=60),
        test=builtin_rows(name, "test", seed=0, count=10),
        separator="",
    )
    for name in ("span", "upper")
]
run = seekr.learn(
    model=builtin_model(),
    tasks=tasks,
    method=LongestAnswers(),
    training={"learning_rate": 5e-4, "num_train_epochs": 1, "per_device_train_batch_size": 16},
    output_dir=folder,
)
for stage in run.stages:
    assert stage.memory is not None
    kept = [stage.memory.encoded(place) for place in range(len(stage.memory))]
    print(stage.name, "keeps answers of", [int((row.labels != -100).sum()) for row in kept], "tokens")
