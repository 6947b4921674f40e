"""`seekr chat`: a conversation with a stage, its answers shown as they are made."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import TextStreamer

from seekr.config.schema import make_tasks
from seekr.data.encoding import encode_prompts
from seekr.data.example import Chat, Example, parse_row
from seekr.data.reading import chat_of
from seekr.data.task import with_template_kwargs
from seekr.errors import InputError, say, show_text
from seekr.evaluation.checks import answering_dtype
from seekr.modeling.generation import answering_settings, only_asked
from seekr.modeling.loading import load_tokenizer, one_kind_of_bar
from seekr.runs.run import Run
from seekr.use.stage import best_device, choose, load

RESET = "/reset"
_TOKENS = 256


class Talk:
    """A conversation so far, or where there is no chat template lines that are each completed by itself.

    Rows are asked as in training: by the run's template and its variables, or with the task's separator. Answers are
    greedy, as they are scored.

    Args:
        chat: how the conversation is rendered; None = it is none.
        length: tokens of what is asked and its answer; what does not fit is cut from the left.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        chat: Chat | None,
        separator: str = " ",
        system: str | None = None,
        length: int,
        max_new_tokens: int,
    ) -> None:
        self.model, self.tokenizer, self.chat, self.separator = model, tokenizer, chat, separator
        self.length, self.max_new_tokens = length, max_new_tokens
        self.opening = [] if system is None else [{"role": "system", "content": system}]
        self.messages = list(self.opening)

    def reset(self) -> None:
        """Forgets all but the system prompt."""
        self.messages = list(self.opening)

    def answer(self, text: str) -> str:
        """Shows the answer on stdout, word by word, and gives it; Ctrl-C ends it there. Raises InputError."""
        turns = [*self.messages, {"role": "user", "content": text}]
        (asked,) = encode_prompts([self._example(turns)], self.tokenizer, self.length, self.max_new_tokens)
        if asked.cut:
            say(f"of what came before only the end fits into {self.length} tokens")
        ids = torch.as_tensor(asked.ids, dtype=torch.long, device=self.model.device)[None]
        settings = answering_settings(self.model.generation_config, self.tokenizer, max_new_tokens=self.max_new_tokens)
        shown = _Shown(self.tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        with only_asked(self.model):
            try:
                self.model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings, streamer=shown
                )
            except KeyboardInterrupt:
                shown.end()
        self.messages = [*turns, {"role": "assistant", "content": shown.text}]
        return shown.text

    def _example(self, turns: list[dict[str, str]]) -> Example:
        if self.chat is None:
            return parse_row({"prompt": turns[-1]["content"], "answer": ""}, "chat", separator=self.separator)
        row = {"messages": [*turns, {"role": "assistant", "content": "..."}]}  # it stands for what is asked for
        return parse_row(row, "chat", answers="last", chat=self.chat)


class _Shown(TextStreamer):
    """Shows an answer, and keeps what was shown."""

    text = ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.text += text
        show_text(text, end="\n" if stream_end else "")


def open_talk(
    folder: Path, stage: str | None = None, *, system: str | None, plain: bool, max_new_tokens: int | None
) -> Talk:
    """A conversation with a stage, None = the newest, that has not begun. Raises InputError."""
    run = Run(folder)
    chosen, weights = choose(run, stage)
    config, length = run.config, run.record["max_length"]
    tokenizer = load_tokenizer(str(weights))
    tasks = with_template_kwargs(make_tasks(config), config.chat_template_kwargs)
    task = next((task for task in tasks if task.name == chosen.name), None)
    chat = Chat(None, config.chat_template_kwargs or {}) if task is None else chat_of(task)
    plain = plain or not (chat.template or getattr(tokenizer, "chat_template", None))
    if plain and system is not None:
        raise InputError(
            "--system: there is no chat template to write it, each line is completed by itself; leave it out"
        )
    new = min(_TOKENS, length // 2) if max_new_tokens is None else max_new_tokens
    if new >= length:
        raise InputError(f"--max-new-tokens {new}: leaves no room for a question in the {length} tokens of this run")
    with one_kind_of_bar():
        model, _ = load(run, weights, dtype=answering_dtype(config))
    return Talk(
        model.to(best_device(config)),
        tokenizer,
        chat=None if plain else chat,
        separator=" " if task is None else task.separator,
        system=system,
        length=length,
        max_new_tokens=new,
    )


def converse(talk: Talk, lines: Iterable[str]) -> None:
    """Answers line after line; blank ones are passed over. Raises InputError."""
    for line in lines:
        if line.strip() == RESET:
            talk.reset()
        elif line.strip():
            talk.answer(line)


def typed() -> Iterator[str]:
    """The lines that a person types, until Ctrl-D."""
    with suppress(ImportError):  # input() then has a history and keys to edit a line with, where there are such
        import_module("readline")
    while True:
        try:
            yield input("> ")
        except EOFError:
            show_text()
            return
        except KeyboardInterrupt:
            show_text(f"\n({RESET} begins again, Ctrl-D leaves)")


def piped() -> Iterator[str]:
    """The lines of stdin, a question each."""
    return (line.rstrip("\r\n") for line in sys.stdin)
