"""`seekr tasks`: the data of tasks, looked at before anything is trained."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from seekr.errors import InputError


def tasks(arguments: argparse.Namespace) -> None:
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
    from seekr.disk.files import write_json
    from seekr.report.tables import print_check

    limit, file = arguments.max_length, arguments.json
    for option, given in (("--max-length", limit), ("--max-new-tokens", arguments.max_new_tokens)):
        if given is not None and arguments.tokenizer is None:
            raise InputError(f"{option} counts tokens; say whose: --tokenizer MODEL")
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
        write_json(file, asdict(check))
    if refused := check.refused():
        raise InputError(refused)


def _show_row(arguments: argparse.Namespace) -> None:
    if arguments.tokenizer is None:
        raise InputError("`seekr tasks show` shows tokens; say whose: --tokenizer MODEL")
    from seekr.config.task_words import task_keys
    from seekr.data.answer_lengths import enough_tokens
    from seekr.data.reading import one_row, read_split
    from seekr.data.showing import show_row
    from seekr.data.task import Task
    from seekr.modeling.loading import load_tokenizer
    from seekr.report.row_view import print_row
    from seekr.report.tables import console

    keys = task_keys(arguments.overrides, without=("train", "test", "eval"))
    task = Task("shown", train=arguments.folder, **keys)
    example = one_row(task, arguments.row or 1)
    tokenizer = load_tokenizer(arguments.tokenizer)
    new_tokens = task.max_new_tokens
    if new_tokens is None:
        new_tokens = enough_tokens(read_split(task, "train", seed=0), tokenizer)
    print_row(show_row(example, tokenizer, arguments.max_length, new_tokens), console())
