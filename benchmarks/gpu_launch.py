"""`seekr learn` by one of the launchers on one GPU: a case of `on_a_gpu.py`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from on_a_gpu import Given


def launched(given: Given, way: str, precision: str) -> list[dict[str, Any]]:
    """Two of the built-in tasks. Distances are those of the weights after each task from the run that is alone."""
    import launches
    from study_measures import steps_and_weights

    from seekr import Run
    from seekr.builtin import builtin_model, builtin_rows
    from seekr.config.launch import launch_file
    from seekr.disk.files import write_json

    place = given.work / "launch" / precision / way
    shutil.rmtree(place, ignore_errors=True)
    sizes = {"train": 24 if given.tiny else 400, "test": 24}
    for task, (split, count) in product(("upper", "reverse"), sizes.items()):
        write_json(place / "data" / task / f"{split}.json", builtin_rows(task, split, seed=0, count=count))
    training = launches.TRAINING | {"save_steps": 20} | ({} if precision == "float32" else {precision: True})
    config = launches.config_of(builtin_model(), place / "data", place / "run", ["upper", "reverse"], training=training)
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", "1", *["--cpu"] * (given.device == "cpu")]
    before = [] if way == "alone" else [*launcher, "--config_file", str(launch_file(way))]
    command = [sys.executable, *before, "-m", "seekr", "learn", str(launches.write(place / "config.yaml", config))]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=given.rows.environment())
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}: {done.stderr}")
    run, alone = Run(place / "run"), place.with_name("alone") / "run"
    found = {"seconds": time.perf_counter() - start, "matrix": run.scores.matrix, **steps_and_weights(run)}
    found["by_pytorch"] = "plain PyTorch" in done.stderr  # the kernels were not taken
    if alone.is_dir():
        found["distances"] = launches.distances(alone, run.folder, builtin_model())
    return [found]
