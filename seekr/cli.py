"""The command `seekr`: reads the command line and hands over. Exit status: 0 done, 1 the run failed, 2 wrong input."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from seekr import __version__
from seekr.errors import InputError, RunError
from seekr.recipes import recipe_names

DONE, FAILED, WRONG_INPUT = 0, 1, 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see `{self.prog} --help`")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status; what went wrong is one line on stderr."""
    try:
        parsed = _parse(arguments)
        _quiet_libraries()
        return int(parsed.command(parsed) or DONE)
    except InputError as error:
        return _give_up(str(error), WRONG_INPUT)
    except RunError as error:
        return _give_up(str(error), FAILED)
    except KeyboardInterrupt as interrupt:
        return _give_up(str(interrupt) or "interrupted", FAILED)
    except BrokenPipeError:  # the reader of `seekr heads RUN | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:  # a full disk, a folder that cannot be written to
        return _give_up(f"{type(error).__name__}: {error}", FAILED)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    # Beside a recipe there is no CONFIG.yaml, and the first key=value word stands where it would.
    if getattr(parsed, "recipes", None) and parsed.config is not None and "=" in parsed.config:
        parsed.overrides, parsed.config = [parsed.config, *parsed.overrides], None
    # argparse takes no more positional words behind an option, as in `learn CONFIG.yaml --dry-run seed=1`.
    if rest and hasattr(parsed, "overrides") and all("=" in word and not word.startswith("-") for word in rest):
        parsed.overrides += rest
    elif rest:
        parser.error(f"unknown argument {rest[0]!r}")
    return parsed


def _give_up(message: str, status: int) -> int:
    print(f"seekr: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _quiet_libraries() -> None:
    # Their advice is for people who call these libraries, and would bury our own lines.
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="seekr",
        description="Fine-tune a language model on tasks that arrive one after another, without losing earlier ones.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"seekr {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, run: Callable[[argparse.Namespace], Any], text: str, **more: Any) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=more.pop("description", None) or text, allow_abbrev=False, **more
        )
        sub.set_defaults(command=run)
        return sub

    sub = command("demo", _demo, "learn the built-in tasks with several methods side by side: a table and a page")
    sub.add_argument(
        "--output-dir", type=Path, default=Path("demo-run"), metavar="DIR", help="one run a method below it"
    )
    sub.add_argument("--seed", type=_natural, default=0, metavar="N")
    sub.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON too")

    sub = command(
        "learn",
        _learn,
        "learn a sequence of tasks; the same command again goes on where it stopped",
        usage="seekr learn CONFIG.yaml [key=value ...] [--dry-run]\n"
        "       seekr learn --recipe NAME [--recipe NAME ...] [key=value ...] [--dry-run]\n"
        "       seekr learn --from RUN --task NAME=PATH[,key=value,...] [--output-dir DIR] [--dry-run]",
    )
    sub.add_argument("config", nargs="?", metavar="CONFIG.yaml")
    sub.add_argument(
        "overrides", nargs="*", metavar="key=value", help="dotted, e.g. method.name=derpp tasks.0.train_limit=9"
    )
    sub.add_argument(
        "--recipe",
        dest="recipes",
        action="append",
        default=[],
        metavar="NAME",
        help=f"a shipped configuration, may repeat, later ones win: {', '.join(recipe_names())}",
    )
    sub.add_argument(
        "--from", dest="source", type=Path, metavar="RUN", help="a finished run to go on from; it stays untouched"
    )
    sub.add_argument(
        "--task", metavar="NAME=PATH[,key=value,...]", help="the one more task: a file or a folder of splits"
    )
    sub.add_argument("--output-dir", type=Path, metavar="DIR", help="of the new run; default: RUN-NAME")
    sub.add_argument("--dry-run", action="store_true", help="resolve and print everything, touch nothing")

    sub = command("evaluate", _evaluate, "fill in what is missing of a run's score matrix")
    sub.add_argument("run", type=Path, metavar="RUN")
    sub.add_argument("--cells", choices=("paper", "seen", "all"), help="which scores; default: those of the run")

    sub = command("report", _report, "write one self-contained page about runs")
    sub.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    sub.add_argument("--output", type=Path, default=Path("report.html"), metavar="FILE")

    for name, run, text in (
        ("heads", _heads, "show which heads were chosen after each task, and their importance"),
        ("memory", _memory, "show what a run keeps of its tasks"),
        ("status", _status, "show where a run stands"),
    ):
        command(name, run, text).add_argument("run", type=Path, metavar="RUN")

    sub = command("tasks", _tasks, "look at the data of tasks", usage="seekr tasks check FOLDER [options]")
    sub.add_argument("action", choices=("check",), help="say what is there, what is missing, and what is wrong with it")
    sub.add_argument("folder", type=Path, metavar="FOLDER", help="of task folders, each with train, eval, test")
    sub.add_argument("--tokenizer", metavar="MODEL", help="count tokens: a folder or hub name of a model")
    sub.add_argument("--max-length", type=_natural, metavar="N", help="count the rows that this limit would cut")
    sub.add_argument("--preset", metavar="NAME", help="what should be there, such as trace-order-1")
    sub.add_argument("--json", type=Path, metavar="FILE", help="write what was found as JSON too")

    sub = command("bench", _bench, "measure time, memory and bytes of the attention work on this machine")
    sub.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON too")
    return parser


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def _learn(arguments: argparse.Namespace) -> None:
    from seekr.config import load_config, load_recipes

    if arguments.source is not None:
        from seekr.extension import extend

        if arguments.config is not None or arguments.recipes:
            given = arguments.config or f"--recipe {arguments.recipes[0]}"
            raise InputError(f"{given}: --from takes its configuration from the run; leave it out")
        if arguments.task is None:
            raise InputError("--from needs the task to add: --task NAME=PATH")
        request = extend(arguments.source, arguments.task, arguments.output_dir)
    else:
        from seekr.preparation import Request

        if arguments.task is not None or arguments.output_dir is not None:
            raise InputError("--task and --output-dir go with --from RUN; in CONFIG.yaml they are tasks and output_dir")
        if arguments.recipes:
            if arguments.config is not None:
                raise InputError(f"{arguments.config}: a configuration file and --recipe do not go together; give one")
            request = Request(load_recipes(arguments.recipes, arguments.overrides))
        elif arguments.config is None:
            raise InputError("which configuration? seekr learn CONFIG.yaml, or seekr learn --recipe NAME")
        else:
            request = Request(load_config(arguments.config, arguments.overrides))
    if arguments.dry_run:
        from seekr.dry_run import print_plan

        print_plan(request)
        return
    from seekr.learner import run_request
    from seekr.processes import is_main
    from seekr.tables import print_scores

    run = run_request(request)
    if is_main():
        print_scores(run)


def _demo(arguments: argparse.Namespace) -> None:
    from seekr.demo import run_demo

    run_demo(arguments.output_dir, seed=arguments.seed, json_file=arguments.json)


def _evaluate(arguments: argparse.Namespace) -> None:
    from seekr.learner import evaluate
    from seekr.tables import print_scores

    print_scores(evaluate(arguments.run, cells=arguments.cells))


def _report(arguments: argparse.Namespace) -> None:
    from seekr.report import write_report

    print(f"written: {write_report(arguments.runs, arguments.output)}")


def _heads(arguments: argparse.Namespace) -> None:
    from seekr.run import Run
    from seekr.tables import print_heads

    print_heads(Run(arguments.run))


def _memory(arguments: argparse.Namespace) -> None:
    from seekr.run import Run
    from seekr.tables import print_memory

    print_memory(Run(arguments.run))


def _status(arguments: argparse.Namespace) -> None:
    from seekr.run import Run
    from seekr.tables import print_status

    print_status(Run(arguments.run))


def _tasks(arguments: argparse.Namespace) -> None:
    from seekr.disk import write_json
    from seekr.tables import print_check
    from seekr.tasks.checking import check_folder

    limit, file = arguments.max_length, arguments.json
    if limit is not None and arguments.tokenizer is None:
        raise InputError("--max-length counts tokens; say whose: --tokenizer MODEL")
    if limit is not None and limit < 2:
        raise InputError(f"--max-length: {limit} leaves no room for a prompt and an answer; give 2 or more")
    if file is not None and (file.is_dir() or not file.resolve().parent.is_dir()):
        raise InputError(f"--json: {file} cannot be written: its folder is missing, or it is a folder itself")
    tokenizer = None
    if arguments.tokenizer is not None and arguments.folder.is_dir():
        from seekr.models import load_tokenizer

        tokenizer = load_tokenizer(arguments.tokenizer)
    check = check_folder(arguments.folder, preset=arguments.preset, tokenizer=tokenizer, max_length=limit)
    print_check(check)
    if file is not None:
        write_json(file, check.to_json())


def _bench(arguments: argparse.Namespace) -> None:
    from seekr.bench import run_bench

    run_bench(arguments.json)
