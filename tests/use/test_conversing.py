"""A conversation with a stage is asked as its rows are, remembers what was said, and can be stopped."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from short_forms import generate_answers
from transformers import AutoModelForCausalLM

from seekr import InputError, Run
from seekr.cli.main import main
from seekr.modeling.loading import load_stage, load_tokenizer
from seekr.use.chat import Talk, converse, open_talk, typed

RunOf = Callable[[str], Run]


def talk_with(run: Run, **more: Any) -> Talk:
    return open_talk(run.folder, **{"system": None, "plain": False, "max_new_tokens": 6, **more})


def asked_of(run: Run, *messages: tuple[str, str]) -> str:
    """What transformers alone answers to a conversation."""
    folder = run.stages[-1].model
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), load_tokenizer(str(folder))
    turns = [{"role": role, "content": content} for role, content in messages]
    inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=6)[0, inputs.input_ids.shape[1] :]
    return str(tokenizer.decode(output, skip_special_tokens=True))


def test_turns_are_asked_by_the_template_with_what_was_said(talker: Run, capsys: pytest.CaptureFixture[str]) -> None:
    talk = talk_with(talker, system="Be kind.")
    first = talk.answer("Is it cold?")
    opening = ("system", "Be kind."), ("user", "Is it cold?")
    assert first == asked_of(talker, *opening)
    second = talk.answer("Why?")
    assert second == asked_of(talker, *opening, ("assistant", first), ("user", "Why?"))
    assert capsys.readouterr().out == f"{first}\n{second}\n"
    talk.reset()
    assert talk.answer("Is it cold?") == first
    assert talk_with(talker).answer("Is it cold?") == asked_of(talker, ("user", "Is it cold?"))


@pytest.mark.parametrize(
    "form", ["whole", *(pytest.param(form, marks=pytest.mark.thorough) for form in ("lora", "prompts", "pool"))]
)
def test_piped_lines_are_completed_each_by_itself_without_a_template(
    run_of: RunOf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """With the answers that the run was scored by; blank lines are passed over."""
    run = run_of(form)
    lines = [answer.prompt for answer in run.answers(1, 1)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n".join(lines)))
    assert main(["chat", str(run.folder), "--max-new-tokens", "4"]) == 0
    out, err = capsys.readouterr()
    assert out == "".join(f"{answer.prediction}\n" for answer in run.answers(1, 1))
    assert "seekr: " not in err


def test_an_earlier_stage_and_a_separator(run_of: RunOf, base: Path) -> None:
    """A line is asked as a row of the stage's task is: here with a space that is the model's to give."""
    run = run_of("whole")
    talk = talk_with(run, stage="a", max_new_tokens=4)
    tokenizer = load_tokenizer(str(run.stages[0].model))
    model = load_stage(str(base), run.stages[0].model, dtype="float32")
    ids = np.array(tokenizer("a 0=").input_ids)
    assert talk.answer("a 0=") == generate_answers(model, tokenizer, [ids], max_new_tokens=4)[0]


def test_plain_is_no_conversation(talker: Run) -> None:
    talk = talk_with(talker, plain=True)
    assert talk.answer("Is it cold?") == talk.answer("Is it cold?")


def test_ctrl_c_stops_an_answer_and_no_more(
    talker: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = talk_with(talker)
    whole = talk.answer("Is it cold?")
    generate = talk.model.generate

    def stopped(*given: Any, streamer: Any, **more: Any) -> None:
        put, count = streamer.put, iter(range(100))

        def counted(value: Any) -> None:
            put(value)
            if next(count) == 2:  # the question, and two tokens
                raise KeyboardInterrupt

        streamer.put = counted
        generate(*given, streamer=streamer, **more)

    talk.reset()
    monkeypatch.setattr(talk.model, "generate", stopped)
    part = talk.answer("Is it cold?")
    assert whole.startswith(part)
    assert len(part) < len(whole)
    assert talk.messages[-1] == {"role": "assistant", "content": part}
    monkeypatch.setattr(talk.model, "generate", generate)
    assert talk.answer("Why?") == asked_of(talker, ("user", "Is it cold?"), ("assistant", part), ("user", "Why?"))


def test_typed_lines_end_with_ctrl_d_and_not_with_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: Iterator[Any] = iter(["one", KeyboardInterrupt, "two", EOFError])

    def read(prompt: str) -> str:
        found = next(given)
        if isinstance(found, type):
            raise found
        return str(found)

    monkeypatch.setattr("builtins.input", read)
    assert list(typed()) == ["one", "two"]
    assert "/reset begins again, Ctrl-D leaves" in capsys.readouterr().out


def test_what_no_longer_fits_is_said(talker: Run, capsys: pytest.CaptureFixture[str]) -> None:
    talk = talk_with(talker)
    converse(talk, ["Is it cold? " * 60, "/reset", "Why?"])
    assert capsys.readouterr().err.count("of what came before only the end fits into 512 tokens") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--system", "Be kind."], "--system: there is no chat template to write it"),
        (["--max-new-tokens", "40"], "--max-new-tokens 40: leaves no room"),
        (["--max-new-tokens", "0"], "no whole number of at least 1"),
        (["--stage", "c"], "no finished stage of that name"),
    ],
)
def test_what_cannot_be_is_one_line(
    run_of: RunOf, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    folder = run_of("whole").folder
    capsys.readouterr()
    assert main(["chat", str(folder), *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert told in err


def test_a_template_that_takes_no_system_prompt_is_one_line(talker: Run) -> None:
    talk = talk_with(talker, system="Be kind.")
    talk.tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    with pytest.raises(InputError, match="no system"):
        talk.answer("Is it cold?")
