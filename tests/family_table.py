"""What becomes of four conversations with each family's template, as the tables of docs/data.md show it.

`python tests/family_table.py` prints them.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from family_templates import FAMILIES, tokenizer_of

from seekr.data.answers import AnswerKey
from seekr.data.clock import fixed_clock
from seekr.data.encoding import Encoded, encode_all, encode_prompts
from seekr.data.example import Chat, Example, parse_row
from seekr.data.fields import field_notes
from seekr.errors import InputError

DAY = datetime(2025, 1, 31)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather",
            "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
        },
    }
]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def call(family: str) -> dict[str, Any]:
    """A turn that calls; ids are as a family wants them."""
    function = {"name": "weather", "arguments": {"town": "Bonn"}}
    return assistant(None, tool_calls=[{"type": "function", "id": _id(family), "function": function}])


def _id(family: str) -> str:
    return "call00001" if family.startswith("Mistral") else "functions.weather:0"


def rows(family: str) -> dict[str, dict[str, Any]]:
    """The conversations, by what is special about them."""
    asked = user("Bonn?")
    result = {"role": "tool", "content": "12 degrees", "tool_call_id": _id(family)}
    return {
        "one": {"messages": [user("Is ice cold?"), assistant("yes")]},
        "several": {
            "messages": [user("Is ice cold?"), assistant("yes"), user("Is fire cold?"), assistant("no")],
        },
        "tools": {"messages": [asked, call(family), result, assistant("It is 12.")], "tools": TOOLS},
        "call": {"messages": [asked, call(family)], "tools": TOOLS},
        "reasoning": {"messages": [user("Is ice cold?"), assistant("yes", reasoning_content="Ice is frozen.")]},
        "inside": {"messages": [user("Is ice cold?"), assistant("<think>\nIce is frozen.\n</think>\n\nyes")]},
    }


def example_of(family: str, kind: str) -> Example:
    return parse_row(rows(family)[kind], f"{family}, {kind}", chat=Chat(None, FAMILIES[family].variables))


def encoded(family: str, kind: str) -> tuple[list[Encoded], AnswerKey, list[int]]:
    """The rows that are trained, the key to the scored answer, and what is asked with."""
    example, tokenizer = example_of(family, kind), tokenizer_of(family)
    with fixed_clock(DAY):
        (asked,) = encode_prompts([example], tokenizer, None, 8)
        return encode_all([example], tokenizer, None), asked.key, asked.ids.tolist()


def answer_ids(row: Encoded, family: str) -> list[int]:
    """The last answer of a row, as it is generated: up to its end."""
    start = max(place for place, label in enumerate(row.labels) if label == -100) + 1
    ids: list[int] = row.labels[start:].tolist()
    return ids[: ids.index(tokenizer_of(family).eos_token_id)]


def one_question() -> str:
    lines = [
        "| template as of | asked with, after the question | learned, and generated | compared |",
        "| --- " * 4 + "|",
    ]
    for family in FAMILIES:
        (row,), key, asked = encoded(family, "one")
        tokenizer = tokenizer_of(family)
        after = _code(tokenizer.decode(asked).rpartition("cold?")[2])
        unasked = "".join(re.findall("asked without '(.*?)'", " ".join(row.notes)))
        if unasked:
            after += f", without `{unasked}`".replace("\\n", "↵")
        learned = tokenizer.decode([label for label in row.labels.tolist() if label != -100])
        lines.append(f"| {family} | {after} | {_code(learned)} | {_code(*key.references)} |")
    return "\n".join(lines)


def other_conversations() -> str:
    lines = [
        "| template as of | several questions | a call, then an answer | reasoning | `<think>` in the content |",
        "| --- " * 5 + "|",
    ]
    for family in FAMILIES:
        cells = (_several(family), _tools(family), _reasoning(family, "reasoning"), _reasoning(family, "inside"))
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _several(family: str) -> str:
    count = len(encoded(family, "several")[0])
    return "one text" if count == 1 else "a text each"


def _tools(family: str) -> str:
    try:
        texts, _, _ = encoded(family, "tools")
    except InputError as error:
        return "refused by the template" if "refuses" in str(error) else "refused: no call is written"
    with fixed_clock(DAY):
        notes = field_notes([example_of(family, "tools")], tokenizer_of(family))
    read = any(note.startswith("used") and "tools" in note.split(": ")[-1].split(", ") for note in notes)
    return f"{'one text' if len(texts) == 1 else 'a text each'}{'' if read else ', `tools` ignored'}"


def _reasoning(family: str, kind: str) -> str:
    try:
        (row,), key, _ = encoded(family, kind)
    except InputError:
        return "refused: left out"
    learned = tokenizer_of(family).decode([label for label in row.labels.tolist() if label != -100])
    if "frozen" not in learned:
        return "ignored"
    return "learned, not compared" if key.references == ["yes"] else "part of the answer"


def _code(text: str) -> str:
    return f"`{text}`".replace("\n", "↵").replace("|", "\\|") if text else "–"


if __name__ == "__main__":
    print(one_question(), other_conversations(), sep="\n\n")
