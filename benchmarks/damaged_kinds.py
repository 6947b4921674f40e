"""The kinds of runs that `damaged_runs.py` damages: how each is made, and what of it is damaged."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from small_run import TASKS, write_configuration, write_task

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))

from earlier_runs import as_of_before_manifests

from seekr.cli.main import main as seekr
from seekr.runs.general_tasks import GeneralScore, write_general
from seekr.training.interruption import Interruption

NEWEST, OLDEST = "stages/01-upper", "stages/00-sort"
_OLDER = ("manifest.json", "model.safetensors", "samples.safetensors", "heads.json")


@dataclass(frozen=True)
class Kind:
    """A kind of run.

    Attributes:
        words: of its configuration, besides those of a plain run.
        damaged: the files that are damaged, as a pattern; those that the other kinds have as well are left to them.
        finished: all three tasks are learned, and the run has what `seekr graft` and `evaluate --general` leave; else
            the third was stopped after a checkpoint.
        folders: folders are damaged in place of files.
        hashed: it has manifests; runs of earlier versions do not.
    """

    words: tuple[str, ...] = ()
    damaged: str = ""
    finished: bool = False
    folders: bool = False
    hashed: bool = True

    def takes(self, command: str) -> bool:
        """Whether a command does here what it does for no other kind of run: the rest is left out."""
        return {"export --merge": self.words == _LORA, "learn --redo": self.hashed}.get(command, True)


_ALL = ("tasks.0.metric=likelihood",)  # a random model's answers are all wrong, whatever its weights
_LORA = ("lora={r: 2, target_modules: [q_proj, v_proj]}",)
KINDS = {
    "plain": Kind(),
    "finished": Kind((), r"graft|general|run\.json|scores|02-add/|01-upper/heads|predictions/2-[02]", True),
    "LoRA": Kind(_LORA, "adapter_"),
    "LoRA, finished": Kind(_LORA, r"02-add/model/adapter_|02-add/manifest", finished=True),
    "encrypted": Kind(("encrypt=true",), rf"run\.json|predictions|{NEWEST}/memory|{OLDEST}/memory"),
    "two seeds with a guard": Kind(
        ("seeds=[0, 1]", "general=GENERAL"),
        r"seed-0/run\.json|seed-1/(run\.json|scores|predictions/[12]-(general|0)|stages/02-add/(manifest|memory/samples))",
        finished=True,
    ),
    "without manifests": Kind(hashed=False),
    "folders": Kind(
        damaged=r"(stages|working)(/[^/]*)?|[^/]*/[^/]*/(model|memory|checkpoint.*)|predictions", folders=True
    ),
    "folders of seeds": Kind(("seeds=[0, 1]",), r"seed-1(/stages|/predictions|/stages/02-add)?", True, folders=True),
}  # fmt: skip


def make_run(folder: Path, kind: Kind) -> Path:
    """The run of a kind in `folder`, once."""
    run = folder / "run"
    if (folder / "made").exists():
        return run
    words, another = configuration(folder, kind), "seeds=[2, 3]" if "seeds" in str(kind.words) else "seed=2"
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        seekr(["learn", *words, f"output_dir={folder / 'other'}", another])
        with contextlib.nullcontext() if kind.finished else stopping_in_the_third_task():
            seekr(["learn", *words])
    for one in [path.parent for path in folder.rglob("run.json")] if kind.finished else ():
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            seekr(["graft", str(one)])
        score = 0.5 + 0.1 * (one.parent == folder)
        write_general(one, [GeneralScore("piqa", stage, "acc", score, None, 9, "0") for stage in (None, "add")])
    stages = sorted(path.name for path in run.rglob("stages/*"))
    assert set(stages) == {f"{place:02d}-{name}" for place, name in enumerate(TASKS[: 2 + kind.finished])}
    assert kind.finished or list(run.glob("working/*/checkpoint-*"))
    if not kind.hashed:
        as_of_before_manifests(run)
    (folder / "made").touch()
    return run


def configuration(folder: Path, kind: Kind) -> list[str]:
    """The words of a `seekr learn` that makes the run of a kind, or goes on with it."""
    config = folder / "config.json"
    if not config.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_configuration(folder)
        write_task(folder, "reverse")
    guard = str(folder / "data/reverse/test.json")
    return [str(config), *_ALL, *(word.replace("GENERAL", guard) for word in kind.words)]


def kinds_of_files(run: Path, kind: Kind) -> list[Path]:
    """One of each kind: of the newest stage and checkpoint all, of an older stage what is read of it later."""
    paths = [path.relative_to(run) for path in run.rglob("*") if path.is_dir() == kind.folders and path.name != ".lock"]
    chosen = [path for path in paths if re.match(kind.damaged if kind.folders else f".*(?:{kind.damaged})", str(path))]
    if kind.folders:
        return sorted(path for path in chosen if re.fullmatch(kind.damaged, str(path)))
    if kind.finished:
        return sorted(chosen)
    checkpoint = max(run.glob("working/*/checkpoint-*"), key=lambda it: int(it.name[11:]))
    return sorted(
        file
        for file in chosen
        if (not str(file).startswith(OLDEST) or file.name in _OLDER or file.name.startswith("adapter"))
        and (file.parts[0] != "predictions" or file.name in ("1-0.jsonl", "1-1.jsonl"))
        and (file.parts[0] != "working" or run / file.parent == checkpoint or file.name in ("task.json", "log.jsonl"))
    )


@contextlib.contextmanager
def stopping_in_the_third_task() -> Iterator[None]:
    """As Ctrl-C after the third step of the third task."""
    asked, tasks = Interruption.on_step_end, []

    def on_step_end(self: Interruption, args, state, control, **kwargs) -> None:  # type: ignore[no-untyped-def]
        tasks.extend([args.output_dir] if args.output_dir not in tasks else [])
        self.signalled = len(tasks) == 3 and state.global_step == 3
        asked(self, args, state, control, **kwargs)

    Interruption.on_step_end = on_step_end  # type: ignore[method-assign]
    try:
        yield
    finally:
        Interruption.on_step_end = asked  # type: ignore[method-assign]
