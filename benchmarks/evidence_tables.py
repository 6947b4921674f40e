"""The tables of `docs/evidence.md`: which rows of which study each is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from study_tables import (
    Row,
    differences,
    interval,
    markdown,
    paired_table,
    read_study,
    rules_table,
    study_table,
    tasks_table,
)

from seekr.builtin.demo import METHODS as DEMO_METHODS


def evidence_tables(demo: list[Row], results: Path) -> dict[str, str]:
    """Name → table, of the rows of the demo's suite and of all that lies in the folder `results` beside them."""
    nano, smollm2, gpu, lora = (
        read_study(results / f"study_{name}.jsonl") for name in ("nano5", "smollm2", "smollm2_gpu", "smollm2_lora")
    )
    gpu_lora = [row for row in gpu if row["settings"]["lora"]]
    gpu_by_default = [row for row in gpu if keeps_by_default(row)]
    gpu = [row for row in gpu if not (row["settings"]["lora"] or keeps_by_default(row))]
    tried = read_study(results / "rules_tried.jsonl")
    studies = {
        "the demo's model, 20 rows kept": [row for row in demo if kept_share(row) == 0.02],
        "nano-instruct, 20 rows kept": [row for row in nano if keeps_by_default(row)],
        "SmolLM2 in full, 8 rows kept": smollm2,
        "the same on a GPU": gpu,
        "SmolLM2 in full, 20 rows kept, on a GPU": gpu_by_default,
        "SmolLM2 with LoRA, 8 rows kept": [*lora, *gpu_lora],
    }
    return {
        **_demo_tables(demo),
        **_nano_tables(nano),
        "smollm2": study_table(smollm2, _by_method),
        "smollm2: tasks": tasks_table(smollm2, _by_method),
        "smollm2: LoRA": study_table([*lora, *gpu_lora], _by_weight),
        "smollm2: on a GPU": study_table(gpu, _by_method),
        "smollm2: 20 rows": study_table(gpu_by_default, _by_method),
        "evidence: rules": rules_table(tried),
        "evidence: constants": _constants_table(tried),
        "evidence: automatic weight": _weights_table(studies),
    }


def _demo_tables(study: list[Row]) -> dict[str, str]:
    """What the demo's suite says of weights, heads, and of how much is kept."""

    def chosen(*names: str, kept: float = 0.02) -> list[Row]:
        return [row for row in study if row["method"] in names and kept_share(row) in (None, kept)]

    weights = chosen("seekr", *(f"seekr-fixed-{weight}" for weight in (1, 10, 100, 1000)))
    shares = [*chosen("seekr", "replay", "derpp"), *chosen("seekr", kept=0.01), *chosen("replay", "derpp", kept=0.1)]
    return {
        "evidence: demo": study_table(chosen(*DEMO_METHODS), _by_method),
        "evidence: weights": paired_table(weights, "`seekr`", _by_method),
        "evidence: heads": paired_table(chosen("seekr", "seekr-random", "seekr-all"), "`seekr`", _by_method),
        "evidence: kept rows": study_table(shares),
    }


def _constants_table(tried: Sequence[Row]) -> str:
    """A line a constant of the automatic weight, a column a suite with 20 kept rows: the mean over the eval seeds."""
    with_20_rows = {"demo": "4 passes", "nano5": "4 passes, 20 rows kept"}
    lines = []
    for nats in (5, 15, 30, 60):
        cells = []
        for suite, replay in with_20_rows.items():
            rule = suite, "seekr", replay, f"{nats} nats over the drift"
            own = [row for row in tried if (row["suite"], row["method"], row["replay"], row["weight"]) == rule]
            seeds = ", ".join(str(row["seed"]) for row in own)
            cells.append(f"{mean(row['overall_performance'] for row in own):.1f} (seeds {seeds})" if own else "")
        lines.append([str(nats), *cells])
    return markdown(["nats over the drift", *with_20_rows], lines)


def _weights_table(studies: Mapping[str, Sequence[Row]]) -> str:
    """A line a model, a column a fixed weight and one for DER++: overall performance less that of the automatic weight,
    seed by seed; in brackets how many seeds."""
    others = ("1", "10", "100", "1000", "derpp")
    lines = []
    for name, rows in studies.items():
        reference = {row["seed"]: row["overall_performance"] for row in rows if _weight(row) == "auto"}
        cells = [name, f"{interval(list(reference.values()))} ({len(reference)})"]
        for weight in others:
            found = differences([row for row in rows if _weight(row) == weight], reference)
            cells.append(f"{interval(found, signed=True)} ({len(found)})" if found else "")
        lines.append(cells)
    return markdown(["", "`auto`", *others[:-1], "`derpp`"], lines)


def _weight(row: Row) -> str | None:
    """`auto` or a number where a row is of `seekr` with its own choice of heads, `derpp` of that; else None."""
    weight = row["settings"]["method"].get("attention_weight")
    if row["method"] in ("seekr", "seekr-auto", "seekr-lora") or row["method"].startswith("seekr-fixed-"):
        return weight if weight == "auto" else f"{weight:g}"
    return "derpp" if row["method"] == "derpp" else None


def _by_method(row: Row) -> str:
    """What a row of a study is called where its method says all."""
    return f"`{row['method']}`"


def _nano_tables(study: list[Row]) -> dict[str, str]:
    """With a share of the rows that is 10 a task, and with the default, 20."""
    of_share, by_default = ([row for row in study if keeps_by_default(row) == chosen] for chosen in (False, True))
    by_rows = {"nano5": of_share, "nano5: 20 rows": by_default}
    return {name: study_table(rows, _by_weight) for name, rows in by_rows.items() if rows}


def _by_weight(row: Row) -> str:
    """The method of a row, and its attention weight where it has one."""
    weight = row["settings"]["method"].get("attention_weight")
    return f"`{row['method']}`" if weight is None else f"`{row['method']}`, {weight}"


def kept_share(row: Row) -> float | None:
    """The share of a task's rows that a method was told to keep; None = it keeps none, or the default."""
    return row["settings"]["method"].get("replay_ratio")


def keeps_by_default(row: Row) -> bool:
    """Whether a run kept what the library keeps where nothing is said: 1% of a task, and 20 rows at least."""
    settings = row["settings"]["method"]
    return "replay_ratio" in settings and settings["replay_ratio"] is None
