"""Rows as other tools write them: ShareGPT's conversations, Alpaca's instructions, TRL's prompts of messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from seekr.errors import InputError, kind_of, listed

_SHARE_GPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "system": "system",
    "tool": "tool",
    "function_response": "tool",
    "observation": "tool",
}
"""Who speaks, as ShareGPT's `from` has it → the role; `function_call` is the assistant's, and no text."""


def known_form(row: Mapping[str, Any], source: str) -> tuple[Mapping[str, Any], frozenset[str]]:
    """A row in seekr's own keys, and which of its keys were read for that.

    - ShareGPT: `conversations` of `from` and `value`, with `system` and `tools`, becomes `messages`.
    - TRL: `prompt` and `completion` that are lists become `messages`, of which those of the prompt are not trained.
    - Alpaca: `instruction`, `input` and `output`, with `system`, become a prompt of these lines and its answer.

    Raises:
        InputError: naming `source`, for a row that begins like one of these and goes on otherwise.
    """
    if row.get("messages") is not None:
        return {**row, "messages": _turns(row["messages"], "messages", source)}, frozenset()
    if row.get("conversations") is not None:
        turns = _turns(row["conversations"], "conversations", source)
        return {**row, "messages": _after_system(row, turns, source)}, frozenset({"conversations", "system"})
    if isinstance(row.get("prompt"), list):
        key = "answer" if row.get("completion") is None else "completion"
        return {**row, "messages": _prompted(row, key, source)}, frozenset({"prompt", key})
    if row.get("prompt") is None and row.get("instruction") is not None:
        return _alpaca(row, source), frozenset({"instruction", "input", "output", "system", "history"})
    return row, frozenset()


def _turns(turns: Any, key: str, source: str) -> Any:
    """Turns with `role` and `content`; what is no list of objects is left to be refused by whoever reads it."""
    if not isinstance(turns, list | tuple):
        raise InputError(f"{source}: {key!r} must be a list, not {kind_of(turns)}")
    return [
        _turn(turn, f"{source}: {key}[{place}]") if isinstance(turn, Mapping) and "from" in turn else turn
        for place, turn in enumerate(turns)
    ]


def _turn(turn: Mapping[str, Any], where: str) -> dict[str, Any]:
    speaker, value = turn["from"], turn.get("value")
    rest = {key: item for key, item in turn.items() if key not in ("from", "value")}
    if speaker == "function_call":
        return {"role": "assistant", "content": None, "tool_calls": _calls(value, where), **rest}
    if speaker not in _SHARE_GPT:
        raise InputError(f"{where}: 'from' must be one of {', '.join(_SHARE_GPT)}, not {kind_of(speaker)}")
    return {"role": _SHARE_GPT[speaker], "content": value, **rest}


def _calls(value: Any, where: str) -> list[Any]:
    """The calls that a turn of `function_call` holds as JSON, one or a list; their arguments stay JSON."""
    try:
        calls = json.loads(value)
    except (TypeError, ValueError, RecursionError):
        raise InputError(
            f"{where}: 'value' must be the JSON of a call, name and arguments, not {kind_of(value)}"
        ) from None
    several = calls if isinstance(calls, list) else [calls]
    return [
        {**call, "arguments": json.dumps(call.get("arguments") or {})} if isinstance(call, dict) else call
        for call in several
    ]


def _after_system(row: Mapping[str, Any], turns: list[Any], source: str) -> list[Any]:
    system = row.get("system")
    if system is None or system == "":
        return turns
    if not isinstance(system, str):
        raise InputError(f"{source}: 'system' must be a string, not {kind_of(system)}")
    return [{"role": "system", "content": system}, *turns]


def _prompted(row: Mapping[str, Any], key: str, source: str) -> list[Any]:
    """The messages of a prompt, as context alone, and those of its completion, which `key` holds."""
    asked = _turns(row["prompt"], "prompt", source)
    answer = row.get(key)
    if isinstance(answer, str):
        answer = [{"role": "assistant", "content": answer}]
    if answer is None:
        raise InputError(f"{source}: 'completion' is missing next to a 'prompt' of messages")
    context = [
        {**turn, "train": False} if isinstance(turn, Mapping) and turn.get("role") == "assistant" else turn
        for turn in asked
    ]
    return [*context, *_turns(answer, key, source)]


def _alpaca(row: Mapping[str, Any], source: str) -> dict[str, Any]:
    if row.get("output") is None:
        raise InputError(f"{source}: 'output' is missing next to 'instruction'; the row has {listed(row)}")
    if row.get("history"):
        raise InputError(f"{source}: 'history' is not read; give the conversation as 'messages'")
    lines = [row.get(key) for key in ("system", "instruction", "input")]
    for key, line in zip(("system", "instruction", "input"), lines, strict=True):
        if line is not None and not isinstance(line, str):
            raise InputError(f"{source}: {key!r} must be a string, not {kind_of(line)}")
    prompt = "".join(f"{line}\n" for line in lines if line)
    return {"prompt": prompt, "answer": row["output"], "references": row.get("references")}
