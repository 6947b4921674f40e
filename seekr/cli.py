"""The command `seekr`: reads the command line and hands over. Exit status: 0 done, 1 the run failed, 2 wrong input."""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from seekr import __version__
from seekr.errors import InputError, RunError

if TYPE_CHECKING:
    from seekr.preparation import Request

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
        "       seekr learn --from RUN --task NAME=PATH[,key=value,...] [--output-dir DIR] [--dry-run]",
    )
    sub.add_argument("config", nargs="?", type=Path, metavar="CONFIG.yaml")
    sub.add_argument(
        "overrides", nargs="*", metavar="key=value", help="dotted, e.g. method.name=derpp tasks.0.train_limit=9"
    )
    sub.add_argument(
        "--from", dest="source", type=Path, metavar="RUN", help="a finished run to go on from; it stays untouched"
    )
    sub.add_argument(
        "--task", metavar="NAME=PATH[,key=value,...]", help="the one more task: a file or a folder of splits"
    )
    sub.add_argument("--output-dir", type=Path, metavar="DIR", help="of the new run; default: RUN-NAME")
    sub.add_argument("--dry-run", action="store_true", help="resolve and print everything, touch nothing")

    sub = command("compare", _compare, "put runs in one table; those that differ in their seed only are one row")
    sub.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run, the folder of its seeds, or of several")
    sub.add_argument("--csv", type=Path, metavar="FILE", help="write unrounded numbers; - is stdout, without the table")
    sub.add_argument("--markdown", type=Path, metavar="FILE", help="write a table to paste; - is stdout")

    sub = command(
        "tune",
        _tune,
        "choose settings on eval splits only: a grid over a few keys, in one table",
        usage="seekr tune CONFIG.yaml 'key=[v1,v2]' ['key=[...]' ...] [key=value ...] [--holdout N] [--output-dir DIR]",
    )
    sub.add_argument("config", type=Path, metavar="CONFIG.yaml")
    sub.add_argument(
        "overrides", nargs="*", metavar="key=[v1,v2]", help="values to try; key=value sets a key for all candidates"
    )
    sub.add_argument(
        "--holdout",
        type=_share_or_rows,
        metavar="N",
        help="score on N rows of each task's train (0.1: a tenth), which are not trained on, instead of eval",
    )
    sub.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="one folder a candidate below it; default: output_dir-tune"
    )
    sub.add_argument("--dry-run", action="store_true", help="print the candidates and the first one's plan, no more")

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

    sub = command("bench", _bench, "measure time, memory and bytes of the attention work on this machine")
    sub.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON too")
    return parser


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def _share_or_rows(text: str) -> float | int:
    value = float(text) if re.fullmatch(r"\d*\.\d+", text) else int(text) if text.isdecimal() else 0
    if value <= 0 or (isinstance(value, float) and value >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a share such as 0.1 nor a number of rows such as 100")
    return value


def _learn(arguments: argparse.Namespace) -> None:
    requests, several = _requests(arguments)
    from seekr.learner import run_request
    from seekr.processes import is_main
    from seekr.seeds import check_seeds, run_seeds
    from seekr.tables import print_scores, print_seeds

    if arguments.dry_run:
        from seekr.dry_run import print_plan
        from seekr.preparation import prepare

        checked = check_seeds(requests) if several else prepare(requests[0])
        print_plan(checked, [request.config.output_dir for request in requests])
        return
    runs = run_seeds(requests) if several else [run_request(requests[0])]
    if is_main():
        print_seeds(runs) if several else print_scores(runs[0])


def _requests(arguments: argparse.Namespace) -> tuple[list[Request], bool]:
    """What `seekr learn` is asked for: one request a run, and whether they are seeds of one."""
    from seekr.config import load_config

    if arguments.source is not None:
        from seekr.extension import extend, extend_seeds
        from seekr.run import open_runs

        if arguments.config is not None:
            raise InputError(f"{arguments.config}: --from takes its configuration from the run; leave it out")
        if arguments.task is None:
            raise InputError("--from needs the task to add: --task NAME=PATH")
        wanted = arguments.source, arguments.task, arguments.output_dir
        several = open_runs(arguments.source)[0].folder != arguments.source
        return extend_seeds(*wanted) if several else [extend(*wanted)], several
    if arguments.task is not None or arguments.output_dir is not None:
        raise InputError("--task and --output-dir go with --from RUN; in CONFIG.yaml they are tasks and output_dir")
    if arguments.config is None:
        raise InputError("which configuration? seekr learn CONFIG.yaml")
    config = load_config(arguments.config, arguments.overrides)
    from seekr.preparation import Request
    from seekr.seeds import seed_requests

    return seed_requests(Request(config)), config.seeds is not None


def _demo(arguments: argparse.Namespace) -> None:
    from seekr.demo import run_demo

    run_demo(arguments.output_dir, seed=arguments.seed, json_file=arguments.json)


def _evaluate(arguments: argparse.Namespace) -> None:
    from seekr.learner import evaluate
    from seekr.run import open_runs
    from seekr.tables import print_scores, print_seeds

    runs = [evaluate(run.folder, cells=arguments.cells) for run in open_runs(arguments.run)]
    print_scores(runs[0]) if runs[0].folder == arguments.run else print_seeds(runs)


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
    from seekr.run import open_runs
    from seekr.tables import print_status, print_status_of_seeds

    runs = open_runs(arguments.run)
    print_status(runs[0]) if runs[0].folder == arguments.run else print_status_of_seeds(arguments.run, runs)


def _compare(arguments: argparse.Namespace) -> None:
    from seekr.report.comparison import compare
    from seekr.tables import print_comparison

    print_comparison(compare(arguments.runs), csv=arguments.csv, markdown=arguments.markdown)


def _tune(arguments: argparse.Namespace) -> None:
    from functools import partial

    from seekr.config import load_config
    from seekr.tuning import tune

    load = partial(load_config, arguments.config)
    tune(load, arguments.overrides, arguments.output_dir, arguments.holdout, dry_run=arguments.dry_run)


def _bench(arguments: argparse.Namespace) -> None:
    from seekr.bench import run_bench

    run_bench(arguments.json)
