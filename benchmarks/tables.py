"""The measured tables of README and docs, from the JSON in `benchmarks/results`: no figure there is typed by hand.

python benchmarks/tables.py
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

from damage_tables import damaged_tables
from evidence_tables import evidence_tables, kept_share
from gpu_tables import gpu_tables, host_table, planned_table
from grafting_tables import grafting_tables
from study_tables import Row, interval, markdown, read_study
from unseen_tables import unseen_table

from seekr.bench.tables import HEADINGS, Rows, bench_cells
from seekr.builtin.demo import METHODS as DEMO_METHODS
from seekr.report.terminal import readable_bytes

RESULTS = Path(__file__).parent / "results"


def tables() -> dict[str, str]:
    """Name → Markdown table."""
    bench, seekr, study = _rows("bench.json"), _rows("demo_papers_rule.json"), read_study(RESULTS / "study_demo.jsonl")
    demo = [row for row in study if row["method"] in DEMO_METHODS and kept_share(row) in (None, 0.02)]
    return {
        "demo": demo_table(demo),
        **evidence_tables(study, RESULTS),
        **grafting_tables("grafting", read_study(RESULTS / "grafting.jsonl")),
        **grafting_tables("grafting: smollm2", read_study(RESULTS / "grafting_smollm2.jsonl")),
        **gpu_tables(read_study(RESULTS / "gpu_h100.jsonl")),
        "gpu: host": host_table(read_study(RESULTS / "gpu_h200.jsonl")),
        "unseen rows": unseen_table(read_study(RESULTS / "unseen_rows.jsonl")),
        "step": bench_table([row for row in bench if row["what"] == "step"]),
        "bench": bench_table(bench),
        "sample bytes": sample_bytes_table(_rows("sample_bytes.json")),
        "teacher forms": form_table(_rows("teacher_forms.json"), seekr),
        "teacher bytes": teacher_bytes_table(_rows("teacher_bytes.json")),
        "methods": method_table(_rows("methods.json")),
        "all methods": all_methods_table([*demo, *_rows("demo_methods.json")]),
        "recipes": recipe_table(_rows("recipes.json"), seekr),
        "plans on a GPU": planned_table(_rows("plan_gpu.json")),
        "plans": plan_table(_rows("plan.json")),
        "planned examples": example_table(_rows("plan_examples.json")),
        "parts of the planned examples": example_parts_table(_rows("plan_examples.json")),
        **damaged_tables(json.loads((RESULTS / "damaged_runs.json").read_text())["outcomes"]),
        "throughput": throughput_table(_rows("throughput.json")),
        "answering": answering_table(_rows("answering.json")),
    }


def demo_table(rows: Rows) -> str:
    """Means over the seeds with their 95% intervals, of the methods that the demo runs."""
    found = []
    for method in DEMO_METHODS:
        own = [row for row in rows if row["method"] == method]
        found.append([f"`{method}`", *(interval([row[key] for row in own]) for key in _SCORES)])
    return markdown(["method", "overall performance", "backward transfer"], found)


def all_methods_table(rows: Rows) -> str:
    """The best first; a task's score when it was learned tells what a method can learn at all."""
    methods = dict.fromkeys(row["method"] for row in rows)
    found = []
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        learned = [mean(row["when_learned"]) for row in own if None not in (row["when_learned"] or [None])]
        scores = [interval([row[key] for row in own]) for key in _SCORES]
        order = mean(row["overall_performance"] for row in own)
        found.append((order, [f"`{method}`", *scores, interval(learned)]))
    head = ["method", "overall performance", "backward transfer", "a task when it was learned"]
    return markdown(head, [line for _, line in sorted(found, key=lambda item: -item[0])])


def recipe_table(rows: Rows, seekr: Rows) -> str:
    """One difference a row, with the paired difference in overall performance to the paper's form, the demo's."""
    base = {row["seed"]: row["overall_performance"] for row in seekr}
    found = [["paper", "–", *(interval([row[key] for row in seekr]) for key in _SCORES), ""]]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        change = ", ".join(f"`{key}: {_yaml(value)}`" for key, value in own[0]["change"].items()) or "–"
        paired = [row["overall_performance"] - base[row["seed"]] for row in own]
        scores = [interval([row[key] for row in own]) for key in _SCORES]
        found.append([variant, change, *scores, interval(paired, signed=True)])
    return markdown(["form", "what changes", "overall performance", "backward transfer", "difference"], found)


def form_table(rows: Rows, seekr: Rows) -> str:
    """One form a row, with the paired difference in overall performance to the exact one."""
    base = {row["seed"]: row["overall_performance"] for row in seekr}
    found = [["`exact`", *(interval([row[key] for row in seekr]) for key in _SCORES), ""]]
    for form in dict.fromkeys(row["form"] for row in rows):
        own = [row for row in rows if row["form"] == form]
        paired = [row["overall_performance"] - base[row["seed"]] for row in own]
        scores = [interval([row[key] for row in own]) for key in _SCORES]
        found.append([f"`{form}`", *scores, interval(paired, signed=True)])
    return markdown(["form", "overall performance", "backward transfer", "difference"], found)


def teacher_bytes_table(rows: Rows) -> str:
    """A line a form and length of a model's shape; the automatic one in bold."""
    found = []
    for row in rows:
        form = f"**{row['form']}**" if row["automatic"] else row["form"]
        share = f"{row['bytes'] / row['released_bytes']:.3f}"
        sizes = [readable_bytes(row["bytes"]), share, f"{row['load_seconds'] * 1e3:.0f} ms"]
        accuracy = [f"{row['loss_error']:.1e}", f"{row['gradient_cosine']:.4f}"]
        found.append([row["model"], f"{row['tokens']:,}", form, *sizes, *accuracy])
    head = ["shape", "tokens", "form", "bytes", "of the released form", "to load", "error of the loss", "cosine"]
    return markdown(head, found)


def sample_bytes_table(rows: Rows) -> str:
    """What one sample takes on the disk, and what of the loss and its gradient is left."""

    def cells(row: Row) -> list[str]:
        share, error = f"{row['bytes'] / row['released_bytes']:.3f}", f"{row['loss_error']:.1e}"
        queries, size = str(row["queries"] or "all"), readable_bytes(row["bytes"])
        return [row["form"], queries, size, share, error, f"{row['gradient_cosine']:.4f}"]

    head = ["form", "queries", "bytes", "of the released form", "error of the loss", "cosine"]
    return markdown(head, [cells(row) for row in rows])


def bench_table(rows: Rows) -> str:
    """As `seekr bench` prints it."""
    cells = bench_cells(rows)
    used = [i for i, heading in enumerate(HEADINGS) if heading or any(row[i] for row in cells)]
    return markdown([HEADINGS[i] for i in used], [[row[i] for i in used] for row in cells])


def method_table(rows: Rows) -> str:
    """What a method needs and what it costs, over plain fine-tuning in the same run."""
    plain = next(row for row in rows if row["method"] == "sequential")
    trains = {"any": "all, or a LoRA adapter", "none": "all", "lora": "LoRA adapters", "own": "what it adds itself"}
    found = []
    for row in rows:
        ratios = [f"{row[key] / plain[key]:.2f}" for key in ("step_seconds", "task_seconds", "peak_bytes")]
        kept = f"{100 * row['kept_bytes'] / row['model_bytes']:.1f}%"
        runs = [_where(row[check]) for check in ("gradient_checkpointing", "ddp", "fsdp")]
        needs_task = "yes" if row["told_task"] else "no"
        found.append([f"`{row['method']}`", trains[row["adapter"]], row["old_data"], needs_task, kept, *ratios, *runs])
    costs = ["kept a task", "× step", "× task", "× peak"]
    head = ["method", "trains", "old data", "given the task", *costs, "checkpointing", "DDP", "FSDP2"]
    return markdown(head, found)


def plan_table(rows: Rows) -> str:
    """What was planned next to what was measured."""
    found = []
    for row in rows:
        trains = {"full": "all weights", "lora": "LoRA"}[row["trains"]]
        memory = [f"{row[key] / 1e6:,.0f} MB" for key in ("planned_bytes", "measured_bytes")]
        seconds = [f"{row[key]:.1f} s" for key in ("planned_seconds", "measured_seconds")]
        checkpointing = "yes" if row["checkpointing"] else "no"
        what = [f"{row['parameters'] / 1e6:.0f} M", trains, f"`{row['method']}`", checkpointing]
        ratios = [f"{row[key]:.2f}" for key in ("memory_ratio", "time_ratio")]
        found.append([*what, str(row["length"]), *memory, ratios[0], *seconds, ratios[1]])
    head = ["model", "trained", "method", "checkpointing", "tokens"]
    return markdown([*head, "memory planned", "measured", "ratio", "steps planned", "measured", "ratio"], found)


def example_table(rows: Rows) -> str:
    """One example a row: what it is, what it keeps, and what its devices need by the ways that there are."""
    found = []
    for row in rows:
        steps = sum(task["task_steps"] + task["replay_steps"] for task in row["tasks"])
        kept = sum(task["kept_bytes"] for task in row["tasks"])
        disk = row["disk"]
        devices = f"{row['devices']} × {row['device_memory'] / 1e9:.0f} GB"
        needs = "; ".join(f"{way['sharding']}: {readable_bytes(way['bytes'])} ({way['fits']})" for way in row["ways"])
        weights = f"{readable_bytes(disk['stages'])} (`{disk['keep_stages']}`)"
        tokens = f"{row['tokens'] / 1e6:.0f} M"
        found.append([f"`{row['example']}`", devices, needs, f"{steps:,}", tokens, readable_bytes(kept), weights])
    head = ["plan", "devices", "a device needs (fits)", "steps", "tokens", "rows and teachers kept", "weights kept"]
    return markdown(head, found)


def example_parts_table(rows: Rows) -> str:
    """The parts of the moment at which a device that holds all of it needs most."""
    peaks = {row["example"]: max(row["memory"], key=lambda phase: phase["bytes"]) for row in rows}
    parts = dict.fromkeys(part for peak in peaks.values() for part in peak["parts"])
    found = [["most in", *(peak["phase"] for peak in peaks.values())]]
    found += [[part, *(_size(peak["parts"].get(part, 0)) for peak in peaks.values())] for part in parts]
    found.append(["together", *(readable_bytes(peak["bytes"]) for peak in peaks.values())])
    return markdown(["part", *(f"`{name}`" for name in peaks)], found)


def _size(count: int) -> str:
    return readable_bytes(count) if count else ""


def throughput_table(rows: Rows) -> str:
    """A line a trainer and a cut of the step, the ratio to the best of TRL in the same run."""
    found = [
        [
            row["trainer"],
            f"{row['micro_batch']} × {row['accumulation']}",
            f"{row['answers']:.0%}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['peak_bytes'] / 1e6:,.0f} MB",
        ]
        for row in rows
    ]
    return markdown(
        ["trainer", "rows × micro-batches", "answers", "tokens a second", "ratio to TRL's best", "peak memory"], found
    )


def answering_table(rows: Rows) -> str:
    """A line a way; the start comes once for each model that is scored."""
    found = [
        [
            row["way"],
            f"{row['start_seconds']:.1f} s",
            f"{row['seconds']:.1f} s",
            f"{row['prompts'] / row['seconds']:.1f}",
            f"{row['same_answers']:.0%}",
        ]
        for row in rows
    ]
    return markdown(["answers by", "start", "answers", "prompts a second", "the same answers"], found)


def _where(distance: float | str) -> str:
    if isinstance(distance, str):
        return "refused"
    return "yes" if distance < 1e-4 else f"no ({distance:.0e})"


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_SCORES = ("overall_performance", "backward_transfer")


def _rows(name: str) -> Rows:
    return list(json.loads((RESULTS / name).read_text())["rows"])


if __name__ == "__main__":
    for title, text in tables().items():
        print(f"{title}\n\n{text}\n")
