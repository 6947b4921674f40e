"""Commands that use what a run has learned: export, chat, score."""

from __future__ import annotations

import argparse
import json
import sys

from seekr.cli.output import give
from seekr.disk.files import check_writable, write_atomically
from seekr.errors import say, show_text


def export(arguments: argparse.Namespace) -> None:
    from seekr.report.tables import print_fact
    from seekr.use.export import export

    found = export(
        arguments.run,
        arguments.output,
        stage=arguments.stage,
        merge=arguments.merge,
        push=arguments.push,
        dry_run=arguments.dry_run,
    )
    if arguments.dry_run:
        show_text(found.card, end="")
        return
    print_fact("written", str(arguments.output))
    for note in found.notes:
        print_fact("note", note)


def chat(arguments: argparse.Namespace) -> None:
    from seekr.use.chat import RESET, converse, open_talk, piped, typed

    talk = open_talk(
        arguments.run,
        arguments.stage,
        system=arguments.system,
        plain=arguments.plain,
        max_new_tokens=arguments.max_new_tokens,
    )
    if not sys.stdin.isatty():
        converse(talk, piped())
        return
    how = "a conversation" if talk.chat else "no chat template: each line is completed by itself"
    show_text(f"{how}; {RESET} begins again, Ctrl-C stops an answer, Ctrl-D leaves", file=sys.stderr)
    converse(talk, typed())


def score(arguments: argparse.Namespace) -> None:
    from seekr.progress import Text
    from seekr.report.summary import decimal
    from seekr.report.tables import print_table
    from seekr.use.score import score

    check_writable(arguments.output, "--output")
    found = score(arguments.run, arguments.task, arguments.stage)
    for warning in found.warnings:
        say(f"task {found.task}: {warning}")

    def show() -> None:
        error = "" if found.error is None else f" ± {decimal(found.error)} (standard error)"
        rows = f"{found.rows} row{'s' * (found.rows != 1)}"
        score_and_where = f"{found.metric} {decimal(found.score)}{error} on {rows}, after {found.stage}"
        print_table(Text(f"{found.task}: {score_and_where}"))

    give(arguments.json, found.to_json, show)
    if arguments.output is not None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in found.lines)
        write_atomically(arguments.output, text)
