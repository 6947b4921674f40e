"""The text that a model reads, and which of its characters are answers.

A row with a prompt and an answer becomes `prompt + " " + answer`; the space is left out where the prompt ends
or the answer begins with white space, or where the task says `separator: ""` (the text is then exactly what
the file holds, as in TRACE's code). The space belongs to the answer: tokenizers join it to the word after
it, so the model must produce it. (lm-evaluation-harness, whose delimiter is the same space, moves it in the
same way.)

A chat row becomes what its template writes. An answer is all that stands there after the text that a model is asked
with: what the template puts in front of it, such as an empty reasoning or a header, is the model's to produce too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from seekr.data.conversation import Conversation, stands_in
from seekr.data.example import Example
from seekr.data.messages import Message, transcript, turn_text
from seekr.data.tokenizing import Tokenizer
from seekr.errors import InputError

PROBE = "a"  # stands for an answer that is not known yet
_OPENING = 40  # characters that a question may open an answer with

THOUGHT = "hocus pocus"  # stands for a reasoning, where nothing else says it: see `Conversation.unsaid`
MARK = "abracadabra"  # the same for an answer whose place is looked for


@dataclass(frozen=True, slots=True)
class Rendered:
    """A text and the characters `[start, end)` of each answer in it, in order; the text ends with the last one."""

    text: str
    spans: tuple[tuple[int, int], ...]
    is_chat: bool  # a chat template writes the special tokens itself
    notes: tuple[str, ...] = ()  # what a person should know of it


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked with, and what its template writes around an answer."""

    text: str  # up to `end`, then a stand-in for the answer and what follows it
    end: int
    answer: tuple[int, int]  # the characters of the stand-in
    answered: str  # the text with the answer itself
    notes: tuple[str, ...] = ()
    thought: bool = False  # a stand-in for a reasoning is in front of that for the answer


@dataclass(frozen=True, slots=True)
class RenderedAnswer:
    """An answer of a conversation: the text up to and with it, of which `answered[start:]` is generated."""

    answered: str
    start: int
    unasked: str = ""  # what the template adds to a question, but writes before no answer


def render(example: Example, tokenizer: Tokenizer) -> list[tuple[Example, Rendered]]:
    """The texts to train on, each with the example that it is of.

    That is one, unless a chat template writes an earlier answer otherwise once later turns are there (without its
    reasoning, or with another end): then such answers get a text of their own, which ends with them, so that each
    is learned as the model is asked for it at that point.

    Raises InputError where the tokenizer's chat template cannot be used on a chat row, or leaves out an answer.
    """
    if not example.messages:
        return [(example, render_pair(example, example.answer))]
    conversation = Conversation(example, tokenizer)
    answers = {turn: answer_of(conversation, turn) for turn in example.trained}
    left_out = _of_left_out(conversation)
    rows = []
    open_turns = list(example.trained)
    while open_turns:
        last = open_turns[-1]
        text = answers[last].answered
        ends = {turn: _end_in(text, answers[turn], example.messages[turn], tokenizer) for turn in open_turns[:-1]}
        taught = [turn for turn in open_turns if turn == last or ends[turn]]
        spans = tuple((answers[turn].start, ends.get(turn) or len(text)) for turn in taught)
        unasked = {answers[turn].unasked for turn in taught} - {""}
        own = [_OWN_ROW] if taught[-1] != example.trained[-1] else []
        notes = (*left_out, *(_UNASKED.format(text) for text in sorted(unasked)), *own)
        rows.append((_part(example, tuple(taught)), Rendered(text, spans, is_chat=True, notes=notes)))
        open_turns = [turn for turn in open_turns if turn not in taught]
    return rows[::-1]


_OWN_ROW = (
    "a text of its own for an earlier answer, which the chat template writes otherwise once later turns are there"
)
_UNASKED = (
    "asked without {!r}, which the chat template adds to a question and writes before no answer; a chat_template "
    "without it has the saved model asked so too"
)


def render_question(example: Example, conversation: Conversation | None) -> Question:
    """What to generate from; `conversation` is that of a chat row's example."""
    if conversation is None:
        rendered = render_pair(example, PROBE)
        start, end = rendered.spans[0]
        return Question(rendered.text, start, (end - len(PROBE), end), render_pair(example, example.answer).text)
    turn = example.trained[-1]
    answer = answer_of(conversation, turn)
    mark, thought = conversation.unsaid(MARK), conversation.unsaid(THOUGHT)
    for message in (saying(mark), thinking(saying(mark), thought)):  # some ask otherwise where nothing is thought
        text = conversation.write((*example.messages[:turn], message))
        place = text.find(mark, answer.start)
        if text.startswith(answer.answered[: answer.start]) and place >= 0:
            break
    else:
        raise _asked_otherwise(conversation)
    thinks = thought in text[answer.start : place]
    text = text[:place] + PROBE + text[place + len(mark) :]
    notes = [*_of_left_out(conversation), *([_UNASKED.format(answer.unasked)] if answer.unasked else [])]
    return Question(text, answer.start, (place, place + len(PROBE)), answer.answered, tuple(notes), thinks)


def prompt_of(question: Question) -> str:
    """The text to tokenize for a prompt, of whose tokens those are it that lie wholly before `question.end`.

    In training a prompt's last tokens depend on what follows: of "Output:\\n\\n" GPT-2's tokenizer makes one
    token, but two with a word after it. What follows is not known here, but where the answer is set off by
    white space it matters little which word it is: a stand-in is put there, and its tokens are dropped.
    Elsewhere (`separator: ""`, or a template that sets nothing off) a stand-in could split the prompt's last
    word, so the prompt is taken by itself.
    """
    text, end = question.text, question.end
    set_off = text[end - 1 : end].isspace() or text[end : end + 1].isspace()
    return text if set_off else text[:end]


def render_pair(example: Example, answer: str) -> Rendered:
    """The prompt of an example with an answer to it."""
    prompt = example.prompt_text.rstrip(" ")
    gap = example.prompt_text[len(prompt) :]
    if not (gap or prompt[-1:].isspace() or answer[:1].isspace()):
        gap = example.separator
    text = prompt + gap + answer if answer else prompt
    return Rendered(text, ((len(prompt), len(text)),), is_chat=False)


def answer_of(conversation: Conversation, turn: int) -> RenderedAnswer:
    """An answer as the template writes it. Raises InputError where it is left out, or asked otherwise than taught."""
    message = conversation.example.messages[turn]
    asked, answered = conversation.asked(turn), conversation.answered(turn)
    start = len(asked) if answered.startswith(asked) else _seam(conversation, turn, asked, answered)
    if not stands_in(_unopened(message, asked), answered[start:]):
        mend = "" if "tool_calls" in message else "give what was thought as 'reasoning_content', or "
        raise InputError(
            f"{conversation.example.source}: the chat template leaves out some or all of the answer in "
            f"messages[{turn}], {turn_text(message)[:40]!r}, so it would not be learned; {mend}use a template that "
            "writes it (chat_template: FILE)"
        )
    return RenderedAnswer(answered, start, asked[start:])


def _unopened(message: Message, asked: str) -> Message:
    """A turn without what a question has opened already, such as the mark of a reasoning that the answer tells."""
    content, before = "".join(message.get("content", "").split()), "".join(asked.split())
    opened = next((size for size in range(min(len(content), _OPENING), 0, -1) if before.endswith(content[:size])), 0)
    return {**message, "content": content[opened:]} if opened else message


def saying(text: str) -> Message:
    """An answer that is nothing but a text."""
    return {"role": "assistant", "content": text}


def thinking(message: Message, thought: str) -> Message:
    """The same after a reasoning."""
    return {**message, "reasoning_content": thought, "thinking": thought}


def _seam(conversation: Conversation, turn: int, asked: str, answered: str) -> int:
    """Where an answer begins in `answered` if a template ends a question otherwise than it begins an answer.

    The model is then asked with what both have in common, so that it is asked as it was taught. That has to hold the
    question and what ends it.
    """
    before = conversation.example.messages[:turn]
    mark = conversation.unsaid(MARK)
    probed = conversation.write((*before, saying(mark)))
    place = probed.rfind(mark)
    start = shared_start(asked, answered, probed[: place if place >= 0 else None])
    question = before[-1].get("content", "").strip()
    marked = conversation.write((*before[:-1], {**before[-1], "content": mark}), ask=True)
    began = marked.find(mark) if question else 0
    _, found, ended = asked[began:start].partition(question) if question else ("", "?", asked[:start])
    if began < 0 or not (found and ended.strip()):
        raise _asked_otherwise(conversation)
    return start


def shared_start(*texts: str) -> int:
    """How many characters all texts begin with."""
    together = zip(*texts, strict=False)
    return next((place for place, chars in enumerate(together) if len(set(chars)) > 1), min(map(len, texts)))


def _asked_otherwise(conversation: Conversation) -> InputError:
    return InputError(
        f"{conversation.example.source}: the chat template writes a question otherwise once an answer is there, so the "
        "model would be asked otherwise than it was taught; use another one (chat_template: FILE)"
    )


def _end_in(text: str, answer: RenderedAnswer, message: Message, tokenizer: Any) -> int | None:
    """Where an answer ends in a text that goes on with later turns; None where it stands there otherwise.

    It has to be followed by what ends a turn, though not by the tokenizer's end token, which some templates write
    after the last turn alone.
    """
    whole = answer.answered.rstrip()
    if whole.endswith(tokenizer.eos_token) and text.startswith(answer.answered):
        return len(answer.answered)
    ended = whole.removesuffix(tokenizer.eos_token)
    if not (text.startswith(ended) and _is_marked(ended[answer.start :].rstrip(), message, tokenizer)):
        return None
    return len(answer.answered) if text.startswith(answer.answered) else len(ended)


def _is_marked(written: str, message: Message, tokenizer: Any) -> bool:
    """Whether something ends a turn that is written so, besides white space."""
    if "tool_calls" in message:
        return written.endswith(tuple(tokenizer.all_special_tokens))
    content = "".join(message["content"].split())
    return not "".join(written.split()).endswith(content) if content else bool(written)


def _part(example: Example, taught: tuple[int, ...]) -> Example:
    """The example that ends with the last of the turns that are taught."""
    if taught == example.trained:
        return example
    turns = example.messages[: taught[-1] + 1]
    last = len(turns) == len(example.messages)
    answer = turn_text(turns[-1])
    return replace(
        example,
        prompt_text=transcript(turns[:-1]),
        answer=answer,
        references=example.references if last else [answer],
        messages=turns,
        trained=taught,
    )


def _of_left_out(conversation: Conversation) -> list[str]:
    return [f"the chat template leaves out what role {role[:40]!r} says" for role in conversation.left_out]
