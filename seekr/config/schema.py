"""The configuration of a run: one YAML file, dotted overrides, and every key checked before anything else happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from seekr.config.secrets import check_secrets
from seekr.config.sections import know_sections
from seekr.config.yaml import parse_yaml, read_yaml
from seekr.disk.files import user_path
from seekr.errors import InputError, reason
from seekr.other_names import meant
from seekr.scoring.cells import default_cells
from seekr.scoring.likelihood import LIKELIHOOD

if TYPE_CHECKING:
    from seekr.data.task import Task


Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Config(BaseModel):
    """What `seekr learn` needs to know; the keys of the YAML file.

    `training` holds fields of transformers' `TrainingArguments`, `lora` those of peft's `LoraConfig`, `vllm` those of
    vLLM's `EngineArgs`.
    Relative paths have been made absolute by `load_config`, from the YAML's folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str = Field(min_length=1)
    tasks: list[dict[str, Any]] = Field(min_length=1)
    method: dict[str, Any] = Field(default_factory=lambda: {"name": "seekr"})
    training: dict[str, Any] = Field(default_factory=dict)
    lora: dict[str, Any] | Literal[False] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_length: int | None = Field(default=None, ge=2)
    chat_template: str | None = Field(default=None, min_length=1)
    chat_template_kwargs: dict[str, Any] | None = None
    cells: Literal["paper", "seen", "all"] = Field(default_factory=lambda known: default_cells(len(known["tasks"])))
    general: dict[str, Any] | None = None
    vllm: dict[str, Any] | None = None
    keep_stages: Literal["all", "last"] | PositiveInt = "all"
    encrypt: bool = False
    seed: Seed = 0
    seeds: list[Seed] | None = None
    output_dir: str = Field(min_length=1)


GENERAL_KEYS = frozenset({"test", "test_limit", "answers", "separator", "chat_template", "chat_template_kwargs"})
"""Of the section `general`: those of a task that say how its test rows are read."""

know_sections(set(Config.model_fields))


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file, applies `key=value` overrides and makes paths absolute. Raises InputError in one line."""
    path = user_path(path)
    raw = read_yaml(path)
    apply_overrides(raw, overrides)
    return resolve(raw, str(path), path.resolve().parent)


def load_recipes(names: Sequence[str], overrides: Sequence[str] = ()) -> Config:
    """Shipped recipes, later ones over earlier ones, and `key=value` overrides over all of them.

    Relative paths are looked up from the current folder. Raises InputError in one line.
    """
    from seekr.config.recipes import default_output_dir, read_recipes

    raw, where = read_recipes(names), f"recipe {' + '.join(names)}"
    apply_overrides(raw, overrides)
    for key, mend in (
        ("model", "say model=FOLDER, or a name on the hub"),
        ("tasks", "add the recipe of a benchmark, or say tasks.preset=NAME tasks.data=FOLDER"),
    ):
        if raw.get(key) is None:
            raise InputError(f"{where}: the key {key!r} is missing; {mend}")
    if raw.get("output_dir") is None:
        raw["output_dir"] = default_output_dir(names, method_name(raw))
    return resolve(raw, where, Path.cwd())


def resolve(raw: dict[str, Any], where: str, folder: Path) -> Config:
    """The configuration of keys and values: a preset as its tasks, relative paths from `folder`. Raises InputError."""
    if isinstance(raw.get("tasks"), dict):
        from seekr.data.presets import preset_tasks

        raw = {**raw, "tasks": preset_tasks(raw["tasks"], folder, joint=method_name(raw) == "joint")}
    return resolve_paths(make_config(raw, where), folder)


def method_name(raw: Mapping[str, Any]) -> str:
    """What `method` or `method.name` says, before anything of it was checked."""
    method = raw.get("method") or {}
    return str(method if isinstance(method, str) else method.get("name", "seekr") if isinstance(method, dict) else "")


def make_config(raw: Mapping[str, Any], where: str) -> Config:
    """Checks keys and values of the top level; `where` begins each message."""
    valid = set(Config.model_fields)
    for key in raw:
        if key not in valid:
            raise InputError(f"{where}: unknown key {str(key)[:60]!r}; {meant(str(key), valid)}")
    check_secrets(dict(raw), where)
    if isinstance(raw.get("method"), str):
        raw = {**raw, "method": {"name": raw["method"]}}
    if isinstance(raw.get("general"), str):
        raw = {**raw, "general": {"test": raw["general"]}}
    try:
        # A key without a value means its default, as in `lora:` or `training:`.
        config = Config.model_validate({key: value for key, value in raw.items() if value is not None})
    except ValidationError as error:
        raise InputError(f"{where}: {first_problem(error)}") from None
    if config.seeds is not None:
        check_seed_list(config.seeds, config.seed, where)
    if config.chat_template_kwargs:
        from seekr.data.messages import check_template_kwargs

        check_template_kwargs(config.chat_template_kwargs, f"{where}: chat_template_kwargs")
    return config


def check_seed_list(seeds: Sequence[int], seed: int, where: str) -> None:
    """Raises InputError where `seeds` is empty or names one twice, or another `seed` is given with it."""
    if not seeds:
        raise InputError(f"{where}: seeds is empty; name at least one, such as seeds: [0, 1, 2]")
    for value in seeds:
        if seeds.count(value) > 1:
            raise InputError(f"{where}: seeds names {value} twice; the same seed is the same run")
    if seed != 0:
        raise InputError(f"{where}: seed {seed} and seeds {list(seeds)} are both given; leave one out, or make it null")


def first_problem(error: ValidationError) -> str:
    """The first finding of a pydantic error in one line: key, what is wrong, what was given."""
    problem = error.errors()[0]
    places = [
        part for part in problem["loc"] if part not in ("literal['all','last']", "constrained-int", "dict[str,any]")
    ]
    key = ".".join(str(part) for part in places)
    if problem["type"] == "missing":
        return f"the key {key!r} is missing"
    if key == "keep_stages":
        return f"keep_stages must be all, last or a number of at least 1, not {problem['input']!r}"
    given = repr(problem["input"])
    return f"{key}: {reason(error)}, not {given[:80]}"


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Sets several dotted keys in place, the method's name first: it decides which of the others mean something."""
    for override in sorted(overrides, key=lambda item: not item.startswith("method.name=")):
        apply_override(raw, override)


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Sets one dotted key, e.g. `training.learning_rate=1e-4` or `tasks.0.train_limit=100`, in place."""
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise InputError(f"{override!r}: an override reads key=value, such as training.learning_rate=1e-4")
    top = set(Config.model_fields)
    if parts[0] not in top:
        raise InputError(f"{key[:80]!r}: unknown key {parts[0][:60]!r}; {meant(parts[0], top)}")
    place: Any = raw
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(place, list):
            if not part.isdecimal() or len(part) > 9 or int(part) >= len(place):
                count = len(place)
                raise InputError(f"{key!r}: {'.'.join(parts[:depth])} is a list of {count}, counted from 0")
            index: Any = int(part)
        elif isinstance(place, dict):
            index = part
        else:
            raise InputError(f"{key!r}: {'.'.join(parts[:depth])} holds no keys")
        if last:
            if parts == ["method", "name"]:
                place = raw["method"] = drop_keys_of_other_method(place, value)
            place[index] = parse_yaml(value, repr(override))
            return
        if isinstance(place, dict) and place.get(index) is None:
            place[index] = {}
        if isinstance(place, dict) and index == "method" and isinstance(place[index], str):
            place[index] = {"name": place[index]}
        place = place[index]


def drop_keys_of_other_method(settings: dict[str, Any], new: str) -> dict[str, Any]:
    """What is left of the file's method settings after `method.name=NEW`: the keys that only the old method knows go.

    Without this, `method.name=derpp` could never be said with a file that sets SEEKR's budgets. Keys that neither
    method knows stay, and are refused later.
    """
    from seekr.methods import find_method

    old = settings.get("name", "seekr")
    try:
        known = {name: {field.name for field in dataclass_fields(find_method(name))} for name in (old, new)}
    except InputError:  # said when the method is made
        return settings
    foreign = known[old] - known[new] | ({"average"} if old == "averaging" else set())  # there it is the method
    return {key: value for key, value in settings.items() if key not in foreign}


def resolve_paths(config: Config, folder: Path) -> Config:
    """Makes relative paths absolute from `folder`. What is no file or folder there may be a hub name, and stays."""

    def resolved(task: dict[str, Any]) -> dict[str, Any]:
        task = dict(task)
        for split in ("train", "eval", "test"):
            if isinstance(task.get(split), str | Path):
                task[split] = _resolve(str(task[split]), folder)
        if isinstance(task.get("chat_template"), str | Path):
            task["chat_template"] = _file(str(task["chat_template"]), folder)
        return task

    return config.model_copy(
        update={
            "model": _resolve(config.model, folder),
            "tasks": [resolved(task) for task in config.tasks],
            "general": None if config.general is None else resolved(config.general),
            "chat_template": None if config.chat_template is None else _file(config.chat_template, folder),
            "output_dir": _file(config.output_dir, folder),
        }
    )


def _file(name: str, folder: Path) -> str:
    return str((folder / user_path(name)).absolute())


def _resolve(name: str, folder: Path) -> str:
    from seekr.data.files import format_of

    path = folder / user_path(name)
    # Names of the hub have one slash at most.
    plainly_a_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or format_of(name) is not None
    return str(path.absolute()) if plainly_a_path or path.exists() else name


def make_tasks(config: Config) -> list[Task]:
    """The tasks of a configuration, in its order. Raises InputError for unknown keys and doubled names."""
    from seekr.data.task import Task, check_tasks

    valid = {field.name for field in dataclass_fields(Task)}
    tasks = []
    for position, settings in enumerate(config.tasks):
        for key in settings:
            if key not in valid:
                mend = meant(str(key), valid, "tasks.N")
                raise InputError(f"tasks.{position}: unknown key {str(key)[:60]!r}; {mend}")
        missing = [key for key in ("name", "train") if settings.get(key) is None]
        if missing:
            raise InputError(f"tasks.{position}: the key {missing[0]!r} is missing")
        tasks.append(Task(**settings))
    check_tasks(tasks)
    return tasks


def make_general(config: Config) -> Task | None:
    """The rows by whose likelihood general ability is watched, as a task that is not learned. Raises InputError."""
    from seekr.data.task import Task

    if config.general is None:
        return None
    for key in config.general:
        if key not in GENERAL_KEYS:
            raise InputError(f"general: unknown key {str(key)[:60]!r}; {meant(str(key), GENERAL_KEYS, 'general')}")
    if config.general.get("test") is None:
        raise InputError("general: the key 'test' is missing: the rows whose likelihood is measured, as general: FILE")
    return Task("general", train=[], metric=LIKELIHOOD, learn=False, **config.general)
