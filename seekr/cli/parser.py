"""What `seekr` understands: its commands, their arguments and their help. Imports nothing heavy."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from seekr import __version__
from seekr.cli.values import above_zero, count, names, natural, path, points, share_or_rows, size
from seekr.config.launch import launch_names
from seekr.config.recipes import recipe_names
from seekr.disk.files import STDOUT
from seekr.errors import InputError, nearest


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            hint = nearest(found[1], re.findall(r"[\w.-]+", found[2]))
            message = f"{message[: found.start()]}{found[1]!r} is none; {hint}"
        raise InputError(f"{message}; see `{self.prog} --help`")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, or sys.argv, as a namespace. Raises InputError."""
    parser = make_parser()
    parsed, rest = parser.parse_known_args(arguments)
    # With a recipe there is no CONFIG.yaml, and the first key=value word stands where it would.
    if getattr(parsed, "recipes", None) and parsed.config is not None and "=" in parsed.config:
        parsed.overrides, parsed.config = [parsed.config, *parsed.overrides], None
    # argparse takes no more positional words after an option, as in `learn CONFIG.yaml --dry-run seed=1`.
    if rest and hasattr(parsed, "overrides") and all("=" in word and not word.startswith("-") for word in rest):
        parsed.overrides += rest
    elif rest:
        hint = f"; {nearest(rest[0], parsed.options)}" if rest[0].startswith("--") else ""
        raise InputError(f"unknown argument {rest[0]!r}{hint}; see `{parsed.prog} --help`")
    return parsed


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line; `command` of what it parses is the command's name. Raises InputError."""
    parser = _Parser(
        prog="seekr",
        description="Fine-tune a language model on tasks that arrive one after another, without losing earlier ones.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"seekr {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, text: str, **more: Any) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=text, allow_abbrev=False, **more
        )
        sub.set_defaults(command=name)
        return sub

    def of_run(name: str, text: str, about: str | None = None) -> argparse.ArgumentParser:
        sub = command(name, text)
        sub.add_argument("run", type=path, metavar="RUN", help=about)
        return sub

    sub = command("demo", "learn the built-in tasks with several methods side by side: a table and a page")
    sub.add_argument(
        "--output-dir", type=path, default=Path("demo-run"), metavar="DIR", help="one run a method below it"
    )
    sub.add_argument("--seed", type=natural, default=0, metavar="N", help="what the runs draw by; default: 0")
    sub.add_argument("--small", action="store_true", help="three methods and three tasks alone")
    sub.add_argument("--json", type=path, metavar="FILE", help="write the table as JSON too")

    sub = command(
        "learn",
        "learn a sequence of tasks; the same command again goes on where it stopped",
        usage="seekr learn CONFIG.yaml [key=value ...] [--dry-run]\n"
        "       seekr learn --recipe NAME [--recipe NAME ...] [key=value ...] [--dry-run]\n"
        "       seekr learn --from RUN --task NAME=PATH[,key=value,...] [key=value ...] [--output-dir DIR]\n"
        "       seekr learn CONFIG.yaml --methods NAME,NAME,... [key=value ...] [--dry-run]\n"
        "       seekr learn CONFIG.yaml --redo STAGE",
    )
    _add_configuration(sub, "key=value", "dotted, e.g. method.name=derpp tasks.0.train_limit=9")
    sub.add_argument(
        "--from", dest="source", type=path, metavar="RUN", help="a finished run to go on from; it stays untouched"
    )
    sub.add_argument(
        "--task", metavar="NAME=PATH[,key=value,...]", help="the one more task: a file or a folder of splits"
    )
    sub.add_argument("--output-dir", type=path, metavar="DIR", help="of the new run; default: RUN-NAME")
    sub.add_argument(
        "--methods", type=names, metavar="NAME,...", help="one after another, in output_dir/NAME, and in one table"
    )
    sub.add_argument(
        "--redo", metavar="STAGE", help="remove this finished stage and those after it, and learn them again"
    )
    _add_no_verify(sub)
    sub.add_argument("--dry-run", action="store_true", help="resolve and print everything, touch nothing")

    sub = command("compare", "put runs in one table; those that differ in their seed only are one row")
    sub.add_argument("runs", nargs="+", type=path, metavar="RUN", help="a run, the folder of its seeds, or of several")
    sub.add_argument("--csv", type=path, metavar="FILE", help="write unrounded numbers; - is stdout, without the table")
    sub.add_argument("--markdown", type=path, metavar="FILE", help="write a table to paste; - is stdout")
    sub.add_argument("--latex", type=path, metavar="FILE", help="write a table for a paper (booktabs); - is stdout")
    sub.add_argument("--sort", metavar="COLUMN", help="best first: op, bwt, forgetting, or a task")
    _add_all(sub, "column")
    _add_json(sub)

    sub = command(
        "tune",
        "choose settings on eval splits only: a grid over a few keys, in one table",
        usage="seekr tune CONFIG.yaml 'key=[v1,v2]' ['key=[...]' ...] [key=value ...] [--holdout N] [...]\n"
        "       seekr tune --recipe NAME [--recipe NAME ...] 'key=[v1,v2]' [key=value ...] [--holdout N] [...]",
    )
    _add_configuration(sub, "key=[v1,v2]", "values to try; key=value sets a key for all candidates")
    sub.add_argument(
        "--holdout",
        type=share_or_rows,
        metavar="N",
        help="score on N rows of each task's train (0.1: a tenth), which are not trained on, instead of eval",
    )
    sub.add_argument(
        "--output-dir", type=path, metavar="DIR", help="one folder a candidate below it; default: output_dir-tune"
    )
    sub.add_argument("--dry-run", action="store_true", help="print the candidates and the first one's plan, no more")

    sub = of_run("evaluate", "fill in what is missing of a run's score matrix")
    sub.add_argument("--cells", choices=("paper", "seen", "all"), help="which scores; default: those of the run")
    sub.add_argument("--general", metavar="TASK,...", help="tasks of lm-evaluation-harness too; trace: TRACE's six")
    sub.add_argument("--general-tasks", type=path, metavar="DIR", help="where tasks of your own are (YAML)")
    sub.add_argument("--by", choices=("transformers", "vllm"), help="who answers; default: as the run has it")
    _add_json(sub)
    _add_no_verify(sub)

    sub = of_run(
        "verify",
        "compare every file of a run with its hash, every number with what it follows from; exit status 3 at a fault",
        "a run, or the folder of its seeds",
    )
    _add_json(sub)

    sub = command("report", "write one self-contained page about runs")
    sub.add_argument("runs", nargs="+", type=path, metavar="RUN")
    sub.add_argument(
        "--output", type=path, default=Path("report.html"), metavar="FILE", help="the page; default: report.html"
    )
    sub.add_argument(
        "--figures", type=path, metavar="DIR", help="write figures for papers too: SVG, PDF and PNG (needs matplotlib)"
    )

    sub = of_run(
        "check",
        "say what a run forgot: each task's score when it was learned and now; exit status 3 where too much is lost",
        "a run, or the folder of its seeds",
    )
    lost = "points of 100 that a task may lose; default: 5"
    sub.add_argument("--max-drop", type=points, default=5.0, metavar="N", help=lost)
    sub.add_argument("--examples", type=natural, default=2, metavar="N", help="lost answers to show; default: 2")
    _add_all(sub, "line")
    _add_json(sub)

    sub = of_run("memory", "show what a run keeps of its tasks; find kept rows by their text, and take them back")
    what = sub.add_mutually_exclusive_group()
    what.add_argument("--search", metavar="TEXT", help="show the kept rows that hold a text")
    what.add_argument(
        "--remove-matching", metavar="TEXT", help="remove them, their teacher signals, and answers that hold it"
    )
    what.add_argument("--remove", metavar="TASK/N", help="remove one kept row, by the name that --search shows")
    _add_json(what)

    sub = of_run(
        "graft",
        "say whether attention maps carry what was lost: the last model answers with the maps of earlier ones",
        "a finished run whose stages have their weights",
    )
    sub.add_argument("--task", metavar="T", help="whose test rows; default: every task learned before the later stage")
    sub.add_argument(
        "--heads", metavar="WORD", help="all, selected, random or layers=a-b; default: the first three that there are"
    )
    sub.add_argument("--from", dest="donor", metavar="STAGE", help="whose maps are put in; default: the task's own")
    sub.add_argument("--to", dest="model", metavar="STAGE", help="which model answers; default: the last")
    _add_json(sub)

    for name, text in (
        ("heads", "show which heads were chosen after each task, and their importance"),
        ("status", "show where a run stands, or the runs below a folder"),
    ):
        _add_json(of_run(name, text))

    sub = of_run(
        "export", "write a stage as a plain model folder with a filled card, for transformers, peft, vLLM and the hub"
    )
    _add_stage(sub)
    sub.add_argument("--output", type=path, metavar="DIR", help="a new or an empty folder")
    sub.add_argument("--merge", action="store_true", help="a LoRA adapter and its base as one model")
    sub.add_argument("--push", metavar="OWNER/NAME", help="upload it too; a model that is new there is private")
    sub.add_argument("--dry-run", action="store_true", help="print the card alone; write and upload nothing")

    sub = of_run("chat", "talk with a stage; /reset begins again, Ctrl-C stops an answer, Ctrl-D leaves")
    _add_stage(sub)
    sub.add_argument("--system", metavar="TEXT", help="the system prompt")
    sub.add_argument("--plain", action="store_true", help="no chat template: each line is completed by itself")
    limit = "of an answer; default: 256, or half of the run's tokens"
    sub.add_argument("--max-new-tokens", type=count, metavar="N", help=limit)

    sub = of_run("score", "score a stage on new rows of a task; the run stays as it is")
    sub.add_argument(
        "--task",
        required=True,
        metavar="NAME=PATH[,key=value,...]",
        help="the rows; settings are those of the run's task of this name, unless a key says otherwise",
    )
    _add_stage(sub)
    sub.add_argument("--output", type=path, metavar="FILE", help="write each row with its answer, as JSON Lines")
    _add_json(sub)

    sub = command(
        "tasks",
        "look at the data of tasks: a whole folder, or one row as it is trained",
        usage="seekr tasks check FOLDER [--preset NAME] [--tokenizer MODEL] [--max-length N]\n"
        "                         [--max-new-tokens N] [--json FILE]\n"
        "       seekr tasks show FILE --tokenizer MODEL [--row N] [--max-length N] [key=value ...]",
    )
    sub.add_argument("action", choices=("check", "show"), help="what is there and what is wrong with it; or one row")
    sub.add_argument("folder", type=path, metavar="FOLDER|FILE", help="of task folders; or of rows")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="show: keys of a task, such as answers=last")
    sub.add_argument("--tokenizer", metavar="MODEL", help="whose tokens: a folder or hub name of a model")
    sub.add_argument("--max-length", type=natural, metavar="N", help="what this limit would cut")
    sub.add_argument(
        "--max-new-tokens", type=count, metavar="N", help="check: of a generated answer; which cannot be right"
    )
    sub.add_argument("--row", type=count, metavar="N", help="show: which row, from 1; default: 1")
    sub.add_argument("--preset", metavar="NAME", help="check: what should be there, such as trace-order-1")
    sub.add_argument("--json", type=path, metavar="FILE", help="check: write what was found as JSON too")

    sub = command("launch-config", "print where a configuration of `accelerate launch` for several GPUs lies")
    sub.add_argument("name", metavar="NAME", help=f"one of {', '.join(launch_names())}")

    sub = command(
        "plan",
        "say what a run needs before any weights are loaded: memory, disk, steps and hours, sharding",
        usage="seekr plan CONFIG.yaml [key=value ...] [options]\n"
        "       seekr plan --recipe NAME [--recipe NAME ...] [key=value ...] [options]",
    )
    _add_configuration(sub, "key=value", "dotted, as seekr learn takes them")
    sub.add_argument(
        "--tokens-per-second", type=above_zero, metavar="N", help="what all devices read together in training: hours"
    )
    sub.add_argument("--device-memory", type=size, metavar="SIZE", help="of one device, such as 80GB: what fits it")
    sub.add_argument("--devices", type=count, default=1, metavar="N", help="how many of them; default: 1")
    sub.add_argument("--json", type=path, metavar="FILE", help="write the plan as JSON too")

    sub = command("bench", "measure time and memory of the attention work on this machine")
    sub.add_argument("--json", type=path, metavar="FILE", help="write the rows as JSON too")

    _add_json(command("env", "print the versions and devices that a report of a fault needs"))
    for sub in commands.choices.values():
        sub.set_defaults(prog=sub.prog, options=[name for action in sub._actions for name in action.option_strings])
    return parser


def _add_configuration(parser: argparse.ArgumentParser, word: str, meaning: str) -> None:
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml")
    parser.add_argument("overrides", nargs="*", metavar=word, help=meaning)
    parser.add_argument(
        "--recipe",
        dest="recipes",
        action="append",
        default=[],
        metavar="NAME",
        help=f"a shipped configuration, may repeat, later ones win: {', '.join(recipe_names())}",
    )


def _add_no_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="use large files without comparing them with their hashes; their sizes are looked at all the same",
    )


def _add_all(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--all", action="store_true", help=f"a {what} for every task, where there are more than 20")


def _add_json(parser: argparse._ActionsContainer) -> None:
    meaning = "write all of it as JSON; without FILE, to stdout alone"
    parser.add_argument("--json", type=path, nargs="?", const=STDOUT, metavar="FILE", help=meaning)


def _add_stage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stage", metavar="NAME", help="the model after this task; default: the newest")
