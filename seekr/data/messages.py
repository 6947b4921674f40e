"""The messages of a chat row by transformers' conventions, as a chat template is handed them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from seekr.errors import InputError, kind_of, listed

Message = dict[str, Any]  # "role", mostly "content", and whatever else the chat template reads
Answers = Literal["all", "last"]

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names that templates and data have for what was thought before an answer; the first is transformers'."""


_TAKEN = {
    "conversation", "messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize",
    "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
    "tokenizer_kwargs", "sanitize_control_tokens",
}  # fmt: skip
"""Arguments of `apply_chat_template` that are no variables of a template."""


def parse_messages(messages: Any, source: str, answers: Answers) -> tuple[tuple[Message, ...], tuple[int, ...], bool]:
    """The turns up to the last one that is trained, the places of those that are, and whether calls held nulls.

    Assistant turns are trained unless their `weight` is 0 or their `train` is false; with `answers` "last" only the
    last of these. Nulls are a table's padding, as its rows must have the same keys: they are left out at every depth.

    Raises:
        InputError: naming `source` and the turn.
    """
    if not isinstance(messages, list | tuple):
        raise InputError(f"{source}: 'messages' must be a list, not {kind_of(messages)}")
    turns = []
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise InputError(f"{source}: messages[{place}] must be an object, not {kind_of(message)}")
        turns.append(_turn(message, f"messages[{place}]", source))
    of_assistant = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not of_assistant:
        roles = listed(sorted({turn["role"] for turn in turns})) or "no turns"
        raise InputError(
            f"{source}: 'messages' has no turn of role 'assistant', so there is no answer to learn; it has {roles}"
        )
    if of_assistant[-1] == 0:
        raise InputError(f"{source}: 'messages' has nothing before its answer; begin with a turn of role 'user'")
    trained = [place for place in of_assistant if place and _is_trained(messages[place], f"messages[{place}]", source)]
    if not trained:
        raise InputError(
            f"{source}: every assistant turn of 'messages' has weight 0 or train false, so there is nothing to learn; "
            "leave the row out"
        )
    padded = any(_holds_null(message.get("tool_calls")) for message in messages[: trained[-1] + 1])
    return tuple(turns[: trained[-1] + 1]), tuple(trained if answers == "all" else trained[-1:]), padded


def parse_tools(tools: Any, source: str) -> tuple[list[dict[str, Any]] | None, bool]:
    """What a row says the assistant may call, without a table's padding, and whether there was any; None = nothing.

    A list of JSON schemas, or the JSON text of one, where a null is meant. Raises InputError.
    """
    found = tools
    if isinstance(tools, str):
        try:
            found = json.loads(tools) if tools.strip() else None
        except (ValueError, RecursionError):
            raise InputError(f"{source}: 'tools' is a text, but not the JSON of a list of tools") from None
    if not found:
        return None, False
    if not isinstance(found, list | tuple) or not all(isinstance(tool, Mapping) for tool in found):
        raise InputError(f"{source}: 'tools' must be a list of objects (JSON schemas), not {kind_of(found)}")
    if isinstance(tools, str):
        return list(found), False
    return [without_nulls(tool) for tool in found], _holds_null(found)


def check_template_kwargs(given: Any, where: str) -> None:
    """Raise InputError, beginning with `where`, for what cannot be handed to a chat template as its variables."""
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise InputError(
            f"{where} must be names and values, such as {{enable_thinking: false}}, not {str(given)[:60]!r}"
        )
    for key in given:
        if key in _TAKEN:
            raise InputError(f"{where}: {key!r} is set by seekr and no variable of a template; leave it out")


def without_nulls(value: Any) -> Any:
    """The same without the keys, at any depth, whose value is null."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(item) for item in value]
    return value


def turn_text(message: Message) -> str:
    """A turn in words: its content, and the calls that it makes as JSON."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "\n".join(text for text in (message.get("content", ""), *calls) if text)


def transcript(messages: Sequence[Message]) -> str:
    """Turns in words, a line each."""
    return "\n".join(f"{message['role']}: {turn_text(message)}" for message in messages)


def marks_of_others(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """What asks for turns to be trained that are not the assistant's, which none is."""
    marked = [(key, message) for message in messages for key in ("weight", "train") if message.get(key)]
    return sorted(
        {f"{key} of role {message['role'][:40]!r}" for key, message in marked if message["role"] != "assistant"}
    )


def _turn(message: Mapping[str, Any], where: str, source: str) -> Message:
    turn: Message = without_nulls({key: value for key, value in message.items() if key not in ("weight", "train")})
    if not isinstance(turn.get("role"), str):
        given = "is missing" if turn.get("role") is None else f"must be a string, not {kind_of(turn['role'])}"
        raise InputError(f"{source}: 'role' of {where} {given}")
    if not turn.get("tool_calls"):
        turn.pop("tool_calls", None)
    elif isinstance(turn["tool_calls"], list | tuple):
        turn["tool_calls"] = [_call(call, where, source) for call in turn["tool_calls"]]
    else:
        raise InputError(f"{source}: 'tool_calls' of {where} must be a list, not {kind_of(turn['tool_calls'])}")
    if "content" in turn:
        turn["content"] = _text(turn["content"], where, source)
    elif "tool_calls" not in turn or turn["role"] != "assistant":
        mend = "; give its 'function_call' as 'tool_calls'" if "function_call" in turn else ""
        raise InputError(f"{source}: 'content' of {where} is missing{mend}")
    thought = next((turn[key] for key in REASONING if isinstance(turn.get(key), str)), None)
    if thought is not None:  # templates read one name or another
        turn |= {"reasoning_content": thought, "thinking": turn.get("thinking", thought)}
    return turn


def _text(content: Any, where: str, source: str) -> str:
    """A content, whose parts are put one after another. Raises InputError for parts that are no text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise InputError(f"{source}: 'content' of {where} must be a string, not {kind_of(content)}")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise InputError(
                f"{source}: 'content' of {where} has a part of type {str(kind)[:40]!r}; parts must be text, "
                '{"type": "text", "text": "..."}, as a language model reads nothing else'
            )
        texts.append(part["text"])
    return "".join(texts)


def _call(call: Any, where: str, source: str) -> dict[str, Any]:
    """A call with its arguments as an object, whether they were one or the JSON of one, where a null is meant."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InputError(
            f"{source}: 'tool_calls' of {where} must be objects with a 'function' of name and arguments, "
            f"not {kind_of(call)}"
        )
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, Mapping):
        raise InputError(
            f"{source}: the arguments of {function['name'][:40]!r} in {where} must be an object, or the JSON of one, "
            f"not {kind_of(function.get('arguments'))}"
        )
    try:
        json.dumps(arguments)
    except (TypeError, ValueError, RecursionError) as error:  # rows of tables and of Python hold dates and bytes too
        raise InputError(
            f"{source}: the arguments of {function['name'][:40]!r} in {where} are no JSON: {str(error)[:80]}"
        ) from None
    outer = call if "function" in call else {"type": "function"}
    return {**outer, "function": {**function, "arguments": dict(arguments)}}


def _is_trained(message: Mapping[str, Any], where: str, source: str) -> bool:
    weight, train = message.get("weight"), message.get("train")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise InputError(f"{source}: 'weight' of {where} must be 0 or 1, not {kind_of(weight)}; a turn counts or not")
    if train is not None and not isinstance(train, bool):
        raise InputError(f"{source}: 'train' of {where} must be true or false, not {kind_of(train)}")
    if weight is not None and train is not None and bool(weight) != train:
        raise InputError(f"{source}: {where} has weight {weight} and train {str(train).lower()}; leave one of them out")
    return bool(train is not False and weight != 0)


def _holds_null(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(item is None or _holds_null(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_holds_null(item) for item in value)
