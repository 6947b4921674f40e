"""What `seekr tasks show` prints: a row in colours, or between brackets where there are none."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from rich.console import Console, RenderableType

from seekr.data.showing import Kind, ShownRow, ShownText
from seekr.progress import Text

_KINDS: dict[Kind, tuple[str, str, str]] = {
    "prompt": ("read", "", ""),
    "trained": ("trained", "bold green", "⟦⟧"),
    "end": ("end token, trained", "bold magenta", "⟦⟧"),
    "cut": ("cut by max_length", "red strike", "✂✂"),
    "unread": ("left out", "dim", "⟨⟩"),
}
"""What each is called, its style, and its brackets where there are no colours."""


def print_row(row: ShownRow, out: Console) -> None:
    """A row as it is trained, asked and compared."""
    plain = out.no_color or not out.is_terminal
    wrapped = partial(out.print, soft_wrap=not out.is_terminal)  # texts of rows are left to the terminal, as they are
    for number, text in enumerate(row.texts, start=1):
        which = f", text {number} of {len(row.texts)}" if len(row.texts) > 1 else ""
        wrapped(Text(f"{row.source}{which}: {text.tokens} tokens, {text.trained} of them trained", style="bold"))
        wrapped(_legend(text, plain=plain))
        out.print(_written(text, plain=plain))
        out.print()
    wrapped(Text(f"generated from {row.asked_tokens} tokens:", style="bold"))
    out.print(Text(row.asked.removesuffix("\n")))
    out.print()
    for name, value in _facts(row):
        wrapped(Text.assemble((f"{name}: ", "bold"), value))


def _legend(text: ShownText, *, plain: bool) -> RenderableType:
    kinds = [kind for kind in _KINDS if any(piece.kind == kind for piece in text.pieces)]
    return Text("  ").join(_marked(_KINDS[kind][0], kind, plain=plain) for kind in kinds)


def _written(text: ShownText, *, plain: bool) -> RenderableType:
    whole = Text()
    for piece in text.pieces:
        # A line break that is learned, or left out, is to be seen.
        shown = piece.text if piece.kind == "prompt" else piece.text.replace("\n", "↵\n")
        whole.append_text(_marked(shown, piece.kind, plain=plain))
    return whole[: len(whole.plain.rstrip("\n"))]


def _marked(text: str, kind: Kind, *, plain: bool) -> Text:
    _, style, brackets = _KINDS[kind]
    return Text(f"{brackets[:1]}{text}{brackets[1:]}") if plain else Text(text, style)


def _facts(row: ShownRow) -> Iterator[tuple[str, str]]:
    yield "learned", " · ".join(repr(answer) for text in row.texts for answer in text.learned)
    yield "compared with", " or ".join(map(repr, row.key.references))
    form = row.key.form
    around = {"in front": [form.lead], "after a reasoning": form.closings, "after": [form.trail, form.mark]}
    taken = [f"{text!r} {where}" for where, texts in around.items() for text in texts if text.strip()]
    if taken:
        yield "taken off what is generated", ", ".join(taken)
    for note in row.notes:
        yield "note", note
