"""The text that a model reads, and which of its characters are answers.

A row with a prompt and an answer becomes `prompt + " " + answer`; the space is left out where the prompt ends
or the answer begins with white space, or where the task says `separator: ""` (the text is then exactly what
the file holds, as in TRACE's code). The space belongs to the answer: tokenizers join it to the word behind
it, so the model must produce it. (lm-evaluation-harness, whose delimiter is the same space, moves it in the
same way.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seekr.errors import InputError
from seekr.tasks.example import Example, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "a"  # stands for an answer that is not known yet


@dataclass(frozen=True, slots=True)
class Rendered:
    """A text and the characters `[start, end)` of each answer in it, in order; the text ends with the last one."""

    text: str
    spans: tuple[tuple[int, int], ...]
    is_chat: bool  # a chat template writes the special tokens itself


def render(example: Example, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """The text to train on. Raises InputError if the tokenizer's chat template cannot be used on a chat row."""
    if not example.messages:
        return _render_pair(example, example.answer)
    last = len(example.messages) - 1
    trained = [
        turn
        for turn, message in enumerate(example.messages)
        if message["role"] == "assistant" and turn > 0 and (example.answers == "all" or turn == last)
    ]
    spans, text = [], ""
    for turn in trained:
        asked = _apply(example, tokenizer, example.messages[:turn], ask=True)
        told = _apply(example, tokenizer, example.messages[: turn + 1], ask=False)
        if not asked.startswith(text) or not told.startswith(asked):
            raise InputError(
                f"{example.source}: the chat template writes earlier turns differently once "
                f"turn {turn + 1} is there, so one text cannot teach every answer; set answers: last, "
                "or use another template"
            )
        spans.append((len(asked), len(told)))
        text = told
    return Rendered(text, tuple(spans), is_chat=True)


def render_prompt(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[str, int]:
    """The text to generate from: `(text, end)`, of which the tokens that lie wholly in `text[:end]` are the
    prompt.

    In training a prompt's last tokens depend on what follows: of "Output:\\n\\n" GPT-2's tokenizer makes one
    token, but two with a word behind it. What follows is not known here, but where the answer is set off by
    white space it matters little which word it is: a stand-in is put there, and its tokens are dropped.
    Elsewhere (`separator: ""`, or a template that sets nothing off) a stand-in could split the prompt's last
    word, so the prompt is taken by itself.
    """
    if example.messages:
        before = example.messages[:-1]
        text = _apply(example, tokenizer, (*before, {"role": "assistant", "content": PROBE}), ask=False)
        asked = _apply(example, tokenizer, before, ask=True)
        end = len(asked)
        if not text.startswith(asked):
            raise InputError(
                f"{example.source}: the chat template writes earlier turns differently once "
                "an answer is there, so the model would be asked otherwise than it was taught; use another one"
            )
    else:
        rendered = _render_pair(example, PROBE)
        text, end = rendered.text, rendered.spans[0][0]
    set_off = text[end - 1 : end].isspace() or text[end : end + 1].isspace()
    return (text if set_off else text[:end]), end


def _render_pair(example: Example, answer: str) -> Rendered:
    prompt = example.prompt_text.rstrip(" ")
    gap = example.prompt_text[len(prompt) :]
    if not (gap or prompt[-1:].isspace() or answer[:1].isspace()):
        gap = example.separator
    text = prompt + gap + answer if answer else prompt
    return Rendered(text, ((len(prompt), len(text)),), is_chat=False)


def _apply(example: Example, tokenizer: PreTrainedTokenizerBase, turns: tuple[Message, ...], *, ask: bool) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"{example.source}: chat rows need a tokenizer with a chat template, and this one has none; "
            "use an instruction-tuned model's tokenizer, or give rows of prompt and answer"
        )
    try:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=ask))
    except Exception as error:  # a template is a program of its own, and may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{example.source}: the tokenizer's chat template refuses these messages: {reason}") from None
