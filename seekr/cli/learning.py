"""Commands that learn, or say what learning would take: learn, tune, evaluate, demo, plan."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekr.errors import InputError, RunError

if TYPE_CHECKING:
    from seekr.config.schema import Config
    from seekr.runs.prepare import Request


def learn(arguments: argparse.Namespace) -> None:
    if arguments.methods is not None:
        _sweep(arguments)
        return
    from seekr.distributed.agreement import agreed

    requests, several = agreed(lambda: _requests(arguments), lambda found: _asked(found[0]))
    from seekr.distributed.processes import is_main
    from seekr.report.tables import print_scores, print_seeds
    from seekr.report.torn import torn
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
    learned = run_seeds(requests) if several else [run_request(requests[0])]
    if is_main():
        with torn(learned, named=False) as runs:
            print_seeds(runs) if several else print_scores(runs[0])


def _sweep(arguments: argparse.Namespace) -> None:
    for option in ("source", "task", "output_dir", "redo"):
        if getattr(arguments, option) is not None:
            word = {"source": "from"}.get(option, option).replace("_", "-")
            raise InputError(f"--{word} is of one run, and --methods begins one a method; leave one of them out")
    from seekr.config.recipes import default_output_dir
    from seekr.distributed.agreement import agreed
    from seekr.distributed.processes import is_main
    from seekr.planning.dry_run import print_plan
    from seekr.report.comparison import compare, folded
    from seekr.report.tables import console, print_comparison, print_fact
    from seekr.runs.sweep import check_sweep, run_sweep, sweep_of

    words = list(arguments.overrides)
    if arguments.recipes:  # an output_dir that is given comes later, and wins
        words.insert(0, f"output_dir={default_output_dir(arguments.recipes)}")
    entries = agreed(
        lambda: sweep_of(_loader(arguments), words, arguments.methods, verify=arguments.verify),
        lambda found: {entry.method: _asked(entry.requests) for entry in found},
    )
    if arguments.dry_run:
        specs = agreed(lambda: list(check_sweep(entries, weights=False)))
        for entry, spec in zip(entries, specs, strict=True) if is_main() else ():
            console().print(f"\nmethod {entry}")
            print_plan(spec, [request.config.output_dir for request in entry.requests])
        return
    failed = run_sweep(entries)
    if is_main():
        here, folders = Path.cwd(), [entry.folder for entry in entries if entry.begun]
        found = compare([it.relative_to(here) if it.is_relative_to(here) else it for it in folders])
        print_comparison(found, folded(found))
        print_fact("next", f"seekr report {entries[0].folder.parent}")
    if failed:
        raise RunError(f"failed: {', '.join(failed)}, as said above; the same command tries again")


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
        if arguments.redo is not None:
            raise InputError("--redo changes a run, and --from leaves it untouched; give one of them")
        several = open_runs(arguments.source)[0].folder != arguments.source
        requests = extend_seeds(*wanted) if several else [extend(*wanted)]
        return [replace(request, verify=arguments.verify) for request in requests], several
    if arguments.task is not None or arguments.output_dir is not None:
        raise InputError("--task and --output-dir go with --from RUN; in CONFIG.yaml they are tasks and output_dir")
    config = _loader(arguments)(arguments.overrides)
    from seekr.runs.prepare import Request
    from seekr.runs.seeds import seed_requests

    return seed_requests(Request(config, verify=arguments.verify, redo=arguments.redo)), config.seeds is not None


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


def demo(arguments: argparse.Namespace) -> None:
    from seekr.builtin.demo import run_demo

    run_demo(arguments.output_dir, seed=arguments.seed, json_file=arguments.json, small=arguments.small)


def evaluate(arguments: argparse.Namespace) -> None:
    from seekr.cli.output import give
    from seekr.distributed.agreement import agreed
    from seekr.distributed.processes import is_main
    from seekr.report.as_json import scores_json
    from seekr.report.tables import print_scores, print_seeds
    from seekr.report.torn import torn
    from seekr.runs.learn import evaluate
    from seekr.runs.run import open_runs

    found = agreed(lambda: open_runs(arguments.run))
    if arguments.general is not None:
        from seekr.use.general import measure_general

        for run in found:
            measure_general(run.folder, arguments.general, arguments.general_tasks)
    elif arguments.general_tasks is not None:
        raise InputError("--general-tasks says where tasks are; --general TASK,... which of them are asked")
    scored = [evaluate(run.folder, arguments.cells, arguments.by, verify=arguments.verify) for run in found]
    one = scored[0].folder == arguments.run

    def show() -> None:
        print_scores(runs[0]) if one else print_seeds(runs)

    if is_main():
        with torn(scored, named=False) as runs:
            give(arguments.json, lambda: {"runs": [scores_json(run) for run in runs]}, show)


def tune(arguments: argparse.Namespace) -> None:
    from seekr.tuning import tune

    load = _loader(arguments)
    tune(load, arguments.overrides, arguments.output_dir, arguments.holdout, dry_run=arguments.dry_run)


def plan(arguments: argparse.Namespace) -> None:
    config = _loader(arguments)(arguments.overrides)
    from seekr.disk.files import write_json
    from seekr.modeling.loading import one_kind_of_bar
    from seekr.planning.plan import make_plan
    from seekr.planning.table import renderables
    from seekr.report.tables import print_table

    options = {name: getattr(arguments, name) for name in ("tokens_per_second", "device_memory", "devices")}
    with one_kind_of_bar():
        plan = make_plan(config, **options)
    for renderable in renderables(plan):
        print_table(renderable)
    if arguments.json is not None:
        write_json(arguments.json, plan.to_json())
