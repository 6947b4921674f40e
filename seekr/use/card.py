"""The model card of a stage: what it learned, how well, from what, how it is loaded. It names no path of a machine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from huggingface_hub import ModelCard, ModelCardData, try_to_load_from_cache
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from seekr.config.identity import as_kept_now
from seekr.evaluation.vllm_engine import lora_rank
from seekr.memory.about import read_about
from seekr.methods import Method
from seekr.methods.form import ModelForm
from seekr.nested import flatten
from seekr.report.exports import markdown_table
from seekr.report.folding import few
from seekr.report.summary import decimal
from seekr.report.torn import score_faults
from seekr.runs.log import RELEARN, read_whole
from seekr.runs.run import Run, Stage
from seekr.use.form import ADAPTER, PROMPTS, WHOLE, ExportForm

_PACKAGES = ("seekr", "transformers", "torch")


def card(run: Run, stage: Stage, method: Method, form: ExportForm, *, name: str, command: str) -> str:
    """The README.md of an exported stage, front matter first; `name` is its folder's, or OWNER/NAME on the hub.

    Raises InputError where a file of the run is torn.
    """
    stages = run.stages[: stage.index + 1]
    base, about = public_name(run.config.model), license_of(run.config.model)
    record = run.record
    identity = as_kept_now(record["identity"])
    training = {"rows of a step": identity["step_rows"], **identity["training"]}
    tasks = _tasks(run, stages)
    doubted = sorted({fault.path.relative_to(run.folder).as_posix() for fault in score_faults(run)})
    left_out = "scores.json" in doubted
    data = ModelCardData(
        base_model=base,
        library_name="transformers" if form.kind == WHOLE else "peft",
        pipeline_tag="text-generation",
        tags=["seekr", "continual-learning", method.name, *(["lora"] if form.kind == ADAPTER else [])],
        **cast(dict[str, Any], about),
    )
    text = _template().render(
        name=name.rpartition("/")[2],
        base=f"`{base}`",
        learned=_learned(run, len(tasks), len(stages)),
        tasks=tasks,
        method=method.name,
        settings=_listed(record["config"]["method"]),
        training=_listed({**training, "lora": record["config"].get("lora") or None}),
        doubt=_doubt(doubted, left_out=left_out),
        scores="" if left_out else _matrix(run, stage),
        measures="" if stage.index + 1 < run.planned else _measures(run),
        license=f"license {about['license']}" if about else "whose license is not known here",
        versions=", ".join(f"{name} {record['versions'].get(name, 'unknown')}" for name in _PACKAGES),
        date=str(record.get("clock", "on an unknown day"))[:10],
        seed=run.seed,
        command=command,
        kept=_kept(stages, method),
        load=how_to_load(form, name=name, base=base, dtype=run.config.dtype),
        served=_served(form, method, name=name, base=base),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def _template() -> Template:
    folder = PackageLoader("seekr.use", ".")
    environment = Environment(loader=folder, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.get_template("card.md.j2")


def public_name(model: str) -> str:
    """The name of a base that anyone may read: of a local folder its last name, or the hub's of a cached one."""
    if not Path(model).is_absolute():
        return model
    cached = re.search(r"models--([^/]+)--([^/]+)/snapshots/[^/]+/?$", model)
    return "/".join(cached.groups()) if cached else Path(model).name


def license_of(model: str) -> dict[str, str]:
    """What the card of a base says of its license, by the keys of the front matter: nothing where there is no card."""
    local = Path(model) / "README.md"
    file = local if Path(model).is_absolute() else try_to_load_from_cache(model, "README.md")
    try:
        said = ModelCard.load(str(file)).data.to_dict() if isinstance(file, str | Path) and Path(file).is_file() else {}
    except Exception:  # no card, or one that is no YAML: then its license is not known
        return {}
    found = {key: said[key] for key in ("license", "license_name", "license_link") if isinstance(said.get(key), str)}
    return found if "license" in found else {}


def how_to_load(form: ExportForm, *, name: str, base: str, dtype: str) -> str:
    """Lines of Python that load the folder and answer as the run was scored."""
    adapted = form.kind != WHOLE
    lines = ["from peft import PeftModel"] * adapted
    lines.append(f"from transformers import AutoModelForCausalLM, AutoTokenizer{', GenerationConfig' * adapted}")
    lines += ["", f'folder = "{name}"  # where this file lies', "tokenizer = AutoTokenizer.from_pretrained(folder)"]
    if adapted:
        more = ", output_router_logits=False" * form.balanced
        lines += [
            f'base = "{base}"  # where its base lies',
            "settings = GenerationConfig.from_pretrained(folder)",
            f'model = AutoModelForCausalLM.from_pretrained(base, dtype="{dtype}", generation_config=settings{more})',
            "model = PeftModel.from_pretrained(model, folder)",
        ]
    else:
        lines.append("model = AutoModelForCausalLM.from_pretrained(folder)")
    if form.chat:
        lines += [
            'messages = [{"role": "user", "content": "..."}]',
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
            ")",
        ]
    else:
        lines.append('inputs = tokenizer("...", return_tensors="pt")')
    lines += [
        "output = model.generate(**inputs, max_new_tokens=32)",
        "print(tokenizer.decode(output[0], skip_special_tokens=True))",
    ]
    return "\n".join(lines)


def _served(form: ExportForm, method: Method, *, name: str, base: str) -> str:
    if form.kind == WHOLE:
        return f"By vLLM: `vllm serve {name}`"
    if form.kind == PROMPTS:
        needs_task = type(method.form).tell_task is not ModelForm.tell_task
        each = "Each score above is by the prompts that its task was learned with, this folder answers with all."
        return f"vLLM takes no learned prompts; peft does. {each if needs_task else ''}".strip()
    if form.odd:
        return f"vLLM takes no adapter with {form.odd}; `seekr export --merge` writes a whole model."
    rank = f"--max-lora-rank {lora_rank(form.rank)}"
    serve = f"vllm serve {base} --enable-lora {rank} --lora-modules {name.rpartition('/')[2]}={name}"
    return f"By vLLM: `{serve}`"


def _learned(run: Run, tasks: int, stages: int) -> str:
    if stages < run.planned:
        return f"{stages} of the {run.planned} tasks of its run"
    return f"{tasks} task{'s' * (tasks != 1)}" + (", all at once" if run.joint else ", one after another" * (tasks > 1))


def _tasks(run: Run, stages: Sequence[Stage]) -> list[dict[str, str]]:
    """Each task that is learned, or a skill that was remembered, with its rows and metric."""
    metrics = dict(zip(run.scored.tasks, run.scored.metrics, strict=True)) if run.scored else {}
    found = []
    for stage in stages:
        about = read_whole(stage.folder / "stage.json", RELEARN)
        for name, identity in about["identity"]["tasks"].items():
            said = [f"{about['rows'][name]['rows']} rows"] + [f"scored by {metrics.get(name)}"] * bool(
                metrics.get(name)
            )
            said += ["a skill of the base, not trained"] * (not identity["learn"])
            found.append({"name": name, "about": ", ".join(said)})
    return found


def _matrix(run: Run, stage: Stage) -> str:
    """The score matrix up to a stage as a table of Markdown; "" where nothing was scored."""
    if run.scored is None:
        return ""
    scores, last = run.scored, len(run.scored.tasks) - 1 if run.joint else stage.index
    rows = {f"`{task}`": row for task, row in zip(scores.tasks, scores.matrix, strict=True)}
    rows = {"all": scores.matrix[-1]} if run.joint else dict(list(rows.items())[: last + 1])
    rows = {"(base)": scores.base, **rows} if any(value is not None for value in scores.base) else rows
    lines = [
        [name, *("" if value is None else decimal(value) for value in row[: last + 1])] for name, row in rows.items()
    ]
    return markdown_table(["after", *scores.tasks[: last + 1]], lines, words=1)


def _doubt(doubted: Sequence[str], *, left_out: bool) -> str:
    """What is to be known of scores where these files are not as they were written; "" where none is."""
    if not doubted:
        return ""
    scores = (
        "The scores of its run are left out" if left_out else "Scores that cannot be checked any more are among these"
    )
    return f"{scores}: not as they were written are {', '.join(few(doubted))}, of which `seekr verify` says more."


def _measures(run: Run) -> str:
    names = {"overall_performance": "Overall performance", "backward_transfer": "backward transfer"}
    found = {name: run.measure(field) for field, name in names.items()}
    return ", ".join(f"{name} {decimal(value)}" for name, value in found.items() if value is not None)


def _kept(stages: Sequence[Stage], method: Method) -> str:
    """What the run keeps of the tasks that a stage has learned."""
    folders = {stage.name: stage.folder / "memory" for stage in stages}
    counts = {name: read_about(folder)["samples"] for name, folder in folders.items() if folder.is_dir()}
    gone = [f"`{stage.name}`" for stage in stages if method.keeps and stage.name not in counts]
    if not counts and not gone:
        return f"`{method.name}` keeps no rows of a task once it is learned."
    whose = "rows that the model made up" if method.generates else "rows of its tasks"
    kept_rows = ", ".join(f"{count} of `{name}`" for name, count in counts.items())
    kept = f"The run keeps {whose}, with what its method needs of them: {kept_rows}." if counts else ""
    return " ".join([kept, *([f"What it kept of {', '.join(gone)} is not there any more."] if gone else [])]).strip()


def _listed(settings: Mapping[str, Any]) -> str:
    """Settings in a line, without a name and what is not set; of a path its last name alone."""
    flat = {key: value for key, value in flatten(settings).items() if key != "name" and value is not None}
    pairs = ", ".join(f"{key} {_plain(value)}" for key, value in flat.items())
    return f": {pairs}" if pairs else ""


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return f"[{', '.join(str(_plain(item)) for item in value)}]"
    return Path(value).name if isinstance(value, str) and ("/" in value or "\\" in value) else value
