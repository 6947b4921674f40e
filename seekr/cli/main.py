"""The command `seekr`: reads the command line and hands over. Exit status: 0 done, 1 the run failed, 2 wrong input,
3 a run forgot too much."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from seekr.cli.library_warnings import leave_out_advice
from seekr.cli.parser import parse
from seekr.distributed.processes import disconnect
from seekr.errors import InputError, RunError

if TYPE_CHECKING:
    from seekr.config.schema import Config
    from seekr.runs.prepare import Request

DONE, FAILED, WRONG_INPUT, TOO_MUCH_LOST = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status; what went wrong is one line on stderr."""
    try:
        parsed = parse(arguments)
        leave_out_advice()
        status = int(_COMMANDS[parsed.command](parsed) or DONE)
        disconnect()
        return status
    except InputError as error:
        return _give_up(str(error), WRONG_INPUT, silently=_told_by_another(error))
    except RunError as error:
        return _give_up(str(error), FAILED, silently=_told_by_another(error))
    except KeyboardInterrupt as interrupt:
        return _give_up(str(interrupt) or "interrupted", FAILED)
    except BrokenPipeError:  # the reader of `seekr heads RUN | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:  # a full disk, a folder that cannot be written to
        return _give_up(f"{type(error).__name__}: {error}", FAILED)


def _give_up(message: str, status: int, *, silently: bool = False) -> int:
    if not silently:
        print(f"seekr: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _told_by_another(error: InputError | RunError) -> bool:
    from seekr.distributed.agreement import CommonInputError, CommonRunError
    from seekr.distributed.processes import is_main

    return isinstance(error, CommonInputError | CommonRunError) and not is_main()


def _learn(arguments: argparse.Namespace) -> None:
    from seekr.distributed.agreement import agreed

    requests, several = agreed(lambda: _requests(arguments), lambda found: _asked(found[0]))
    from seekr.distributed.processes import is_main
    from seekr.report.tables import print_scores, print_seeds
    from seekr.runs.execute import run_request
    from seekr.runs.seeds import check_seeds, run_seeds

    if arguments.dry_run:
        from seekr.planning.dry_run import print_plan
        from seekr.runs.prepare import prepare

        looks = [replace(request, weights=False) for request in requests]
        checked = agreed(lambda: check_seeds(looks) if several else prepare(looks[0]))
        if is_main():
            print_plan(checked, [request.config.output_dir for request in requests])
        return
    runs = run_seeds(requests) if several else [run_request(requests[0])]
    if is_main():
        print_seeds(runs) if several else print_scores(runs[0])


def _asked(requests: Sequence[Request]) -> dict[str, Any]:
    seeds = [request.config.seed for request in requests]
    return {**requests[0].config.model_dump(mode="json"), "seeds": seeds}


def _requests(arguments: argparse.Namespace) -> tuple[list[Request], bool]:
    """What `seekr learn` is asked for: one request a run, and whether they are seeds of one."""
    if arguments.source is not None:
        from seekr.runs.extend import extend, extend_seeds
        from seekr.runs.run import open_runs

        overrides = [word for word in (arguments.config, *arguments.overrides) if word is not None]
        if arguments.recipes or any("=" not in word for word in overrides):
            given = arguments.config or f"--recipe {arguments.recipes[0]}"
            raise InputError(f"{given}: --from takes its configuration from the run; leave it out")
        if arguments.task is None:
            raise InputError("--from needs the task to add: --task NAME=PATH")
        wanted = arguments.source, arguments.task, arguments.output_dir, overrides
        several = open_runs(arguments.source)[0].folder != arguments.source
        return extend_seeds(*wanted) if several else [extend(*wanted)], several
    if arguments.task is not None or arguments.output_dir is not None:
        raise InputError("--task and --output-dir go with --from RUN; in CONFIG.yaml they are tasks and output_dir")
    config = _loader(arguments)(arguments.overrides)
    from seekr.runs.prepare import Request
    from seekr.runs.seeds import seed_requests

    return seed_requests(Request(config)), config.seeds is not None


def _loader(arguments: argparse.Namespace) -> Callable[[Sequence[str]], Config]:
    """How a configuration file, or recipes in its place, become a configuration with `key=value` overrides."""
    from seekr.config.schema import load_config, load_recipes

    if arguments.recipes and arguments.config is not None:
        raise InputError(f"{arguments.config}: a configuration file and --recipe do not go together; give one")
    if arguments.recipes:
        return partial(load_recipes, arguments.recipes)
    if arguments.config is None:
        raise InputError(f"which configuration? seekr {arguments.command} CONFIG.yaml, or --recipe NAME")
    return partial(load_config, arguments.config)


def _demo(arguments: argparse.Namespace) -> None:
    from seekr.builtin.demo import run_demo

    run_demo(arguments.output_dir, seed=arguments.seed, json_file=arguments.json, small=arguments.small)


def _evaluate(arguments: argparse.Namespace) -> None:
    from seekr.distributed.agreement import agreed
    from seekr.distributed.processes import is_main
    from seekr.report.tables import print_scores, print_seeds
    from seekr.runs.learn import evaluate
    from seekr.runs.run import open_runs

    found = agreed(lambda: open_runs(arguments.run))
    runs = [evaluate(run.folder, cells=arguments.cells, by=arguments.by) for run in found]
    if is_main():
        print_scores(runs[0]) if runs[0].folder == arguments.run else print_seeds(runs)


def _check(arguments: argparse.Namespace) -> int:
    from seekr.disk import check_writable, write_json
    from seekr.report.check_run import renderables
    from seekr.report.forgotten import changes
    from seekr.report.tables import console, print_table
    from seekr.runs.run import open_runs

    check_writable(arguments.json, "--json")
    most, over, written = arguments.max_drop, False, []
    for run in open_runs(arguments.run):
        found = changes(run)
        console().print(f"run: {run.folder}")
        for part in renderables(found, most=most, examples=arguments.examples):
            print_table(part)
        over = over or any(change.over(most) for change in found)
        written.append({"run": str(run.folder), "tasks": [change.to_json() for change in found]})
    if arguments.json is not None:
        write_json(arguments.json, {"max_drop": most, "over": over, "runs": written})
    return TOO_MUCH_LOST if over else DONE


def _report(arguments: argparse.Namespace) -> None:
    from seekr.report import write_report

    print(f"written: {write_report(arguments.runs, arguments.output)}")


def _heads(arguments: argparse.Namespace) -> None:
    from seekr.report.tables import print_heads
    from seekr.runs.run import Run

    print_heads(Run(arguments.run))


def _memory(arguments: argparse.Namespace) -> None:
    from seekr.report.tables import print_memory
    from seekr.runs.run import Run

    print_memory(Run(arguments.run))


def _status(arguments: argparse.Namespace) -> None:
    from seekr.report.tables import print_status, print_status_of_runs, print_status_of_seeds
    from seekr.runs.run import open_runs, read_runs, seed_folders

    folder = arguments.run
    if (
        not (folder / "run.json").is_file()
        and not seed_folders(folder)
        and any((*folder.glob("*/run.json"), *folder.glob("*/*/run.json")))
    ):
        print_status_of_runs(folder, read_runs([folder]))
        return
    runs = open_runs(folder)
    print_status(runs[0]) if runs[0].folder == arguments.run else print_status_of_seeds(arguments.run, runs)


def _compare(arguments: argparse.Namespace) -> None:
    from seekr.report.comparison import compare
    from seekr.report.tables import print_comparison

    print_comparison(compare(arguments.runs), csv=arguments.csv, markdown=arguments.markdown)


def _tune(arguments: argparse.Namespace) -> None:
    from seekr.tuning import tune

    load = _loader(arguments)
    tune(load, arguments.overrides, arguments.output_dir, arguments.holdout, dry_run=arguments.dry_run)


def _tasks(arguments: argparse.Namespace) -> None:
    limit, show = arguments.max_length, arguments.action == "show"
    of_check = {"--preset": arguments.preset, "--json": arguments.json, "--max-new-tokens": arguments.max_new_tokens}
    for name, given in of_check.items():
        if show and given is not None:
            raise InputError(f"{name} goes with `seekr tasks check`; leave it out")
    for name, given in (("--row", arguments.row), ("key=value", arguments.overrides)):
        if not show and given:
            raise InputError(f"{name} goes with `seekr tasks show`; leave it out")
    if limit is not None and limit < 2:
        raise InputError(f"--max-length: {limit} leaves no room for a prompt and an answer; give 2 or more")
    (_show_row if show else _check_tasks)(arguments)


def _check_tasks(arguments: argparse.Namespace) -> None:
    from seekr.data.checking import check_folder
    from seekr.disk import check_writable, write_json
    from seekr.report.tables import print_check

    limit, file = arguments.max_length, arguments.json
    for option, given in (("--max-length", limit), ("--max-new-tokens", arguments.max_new_tokens)):
        if given is not None and arguments.tokenizer is None:
            raise InputError(f"{option} counts tokens; say whose: --tokenizer MODEL")
    check_writable(file, "--json")
    tokenizer = None
    if arguments.tokenizer is not None and arguments.folder.is_dir():
        from seekr.modeling.loading import load_tokenizer

        tokenizer = load_tokenizer(arguments.tokenizer)
    check = check_folder(
        arguments.folder,
        preset=arguments.preset,
        tokenizer=tokenizer,
        max_length=limit,
        max_new_tokens=arguments.max_new_tokens,
    )
    print_check(check)
    if file is not None:
        write_json(file, check.to_json())
    if refused := check.refused():
        raise InputError(refused)


def _show_row(arguments: argparse.Namespace) -> None:
    if arguments.tokenizer is None:
        raise InputError("`seekr tasks show` shows tokens; say whose: --tokenizer MODEL")
    from seekr.cli.show import show

    wanted = {"model": arguments.tokenizer, "row": arguments.row or 1, "max_length": arguments.max_length}
    show(arguments.folder, arguments.overrides, **wanted)


def _launch_config(arguments: argparse.Namespace) -> None:
    from seekr.config.launch import launch_file

    print(launch_file(arguments.name))


def _plan(arguments: argparse.Namespace) -> None:
    config = _loader(arguments)(arguments.overrides)
    from seekr.disk import check_writable
    from seekr.planning import run_plan

    check_writable(arguments.json, "--json")
    run_plan(
        config,
        tokens_per_second=arguments.tokens_per_second,
        device_memory=arguments.device_memory,
        devices=arguments.devices,
        json_file=arguments.json,
    )


def _bench(arguments: argparse.Namespace) -> None:
    from seekr.bench import run_bench
    from seekr.disk import check_writable

    check_writable(arguments.json, "--json")
    run_bench(arguments.json)


_COMMANDS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "bench": _bench,
    "check": _check,
    "compare": _compare,
    "demo": _demo,
    "evaluate": _evaluate,
    "heads": _heads,
    "launch-config": _launch_config,
    "learn": _learn,
    "memory": _memory,
    "plan": _plan,
    "report": _report,
    "status": _status,
    "tasks": _tasks,
    "tune": _tune,
}
