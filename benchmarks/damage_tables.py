"""What became of damaged runs, as tables: how often each outcome of `damaged_runs.py` was seen."""

from __future__ import annotations

from collections import Counter

from study_tables import markdown

OUTCOMES = ("refused", "named", "same", "unknown", "SILENT", "TRACEBACK")


def damaged_tables(kinds: dict[str, dict[str, dict[str, list[str]]]]) -> dict[str, str]:
    """How often each outcome was seen: a line a command, and a line a kind of run, over all files and faults."""
    seen = [
        (kind, command, outcome)
        for kind, files in kinds.items()
        for faults in files.values()
        for fault, outcomes in faults.items()
        if fault != "commands"
        for command, outcome in zip(faults["commands"], outcomes, strict=True)
    ]

    def counts(place: int, name: str) -> list[str]:
        found = Counter(one[2] for one in seen if one[place] == name)
        return [f"{found[outcome]:,}" for outcome in OUTCOMES]

    commands = [[f"`{name}`", *counts(1, name)] for name in dict.fromkeys(one[1] for one in seen)]
    runs = [[name, str(len(files)), *counts(0, name)] for name, files in kinds.items()]
    return {
        "damaged runs": markdown(["command", *OUTCOMES], commands),
        "damaged runs: kinds": markdown(["run", "kinds of files", *OUTCOMES], runs),
    }
