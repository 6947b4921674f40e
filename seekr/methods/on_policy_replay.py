"""On-policy replay: the model's own correct answers to the kept prompts are replayed in place of the stored ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, cast

import numpy as np
from pydantic import Field

from seekr.data.token_rows import IGNORED, TokenizedRow
from seekr.distributed.processes import say_once
from seekr.memory.reader import KeptSample
from seekr.memory.writer import MemoryWriter
from seekr.methods.base import TaskContext
from seekr.methods.replay import Replay
from seekr.methods.seekr import AttentionWeight, Seekr
from seekr.modeling.generation import Generated, generate_tokens
from seekr.scoring.likelihood import LIKELIHOOD
from seekr.scoring.metrics import row_scores


class OnPolicyReplay(Seekr):
    """Replay of what the model that has just learned a task answers itself to the kept prompts, where it is right.

    An answer that scores below `correct_from` by the task's metric, or that does not end within `max_new_tokens`,
    leaves the stored one in place; so does a prompt that leaves no room for `max_new_tokens`, and a row with
    more than one answer, or words after it. Nothing is generated where the task's metric is likelihood, which says
    nothing of an answer of the model's own. An own answer is kept as the very tokens that were generated.

    Heads are measured and attention is kept only with an `attention_weight`, logits only with that or a
    `logit_weight`: everything then belongs to the own answers.

    Args:
        attempts: answers to each prompt, the first greedy, all others drawn; the first correct one is taken.
        temperature: of the drawn answers.
        correct_from: the least score of a correct answer, 0..100; exact metrics give 0 or 100.

    All other settings are those of `Seekr`; the two weights are 0 unless they are given.

    Source: Chen et al., arXiv 2605.29495: answers of the newest model to past prompts, filtered by the task's reward,
        are trained on as any other row. There they are made again before each task, here once, when the task has just
        been learned; there the prompts with the best answers are replayed, here those kept by `replay_choice`, and
        a wrong answer costs no prompt. Why own answers forget less: Chen et al., arXiv 2510.18874.
    """

    name = "on_policy_replay"
    unplanned = "generating answers to the kept prompts, with their keys and values"
    free = Replay.free

    attention_weight: AttentionWeight = 0.0
    logit_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    attempts: Annotated[int, Field(ge=1)] = 1
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    correct_from: Annotated[float, Field(ge=0, le=100)] = 50.0

    @property
    def reads_attention(self) -> bool:
        return bool(self.attention_weight)

    @property
    def keeps_logits(self) -> bool:
        return self.reads_attention or bool(self.logit_weight)

    def kept_samples(self, context: TaskContext) -> Sequence[TokenizedRow]:
        """The kept rows of the task, with own answers where they are correct."""
        places = self.kept_places(context)
        rows = [context.samples[place] for place in places]
        own = self.correct_answers(context, places)
        return [own.get(place, row) for place, row in zip(places, rows, strict=True)]

    def correct_answers(self, context: TaskContext, places: Sequence[int]) -> dict[int, OwnAnswer]:
        """Place in the task's data → the row with the first correct answer of the model, for those that have one."""
        if context.metric == LIKELIHOOD:
            why = "metric likelihood can tell of no own answer whether it is correct"
            say_once(f"task {context.task}: the answers of the data are replayed: {why}")
            return {}
        prompts = {place: prompt_of(context.samples[place]) for place in places}
        room = context.max_length - context.max_new_tokens
        open_places = [place for place in places if 0 < len(prompts[place]) <= room]
        seeds = np.random.default_rng([context.seed, context.index, 2]).integers(2**31, size=self.attempts)
        found: dict[int, OwnAnswer] = {}
        for attempt, seed in enumerate(seeds):
            if not open_places:
                break
            with context.track(f"answering {context.task}", len(open_places)) as advance:
                answers = generate_tokens(
                    cast(Any, context.model),
                    context.tokenizer,
                    [prompts[place] for place in open_places],
                    max_new_tokens=context.max_new_tokens,
                    batch_size=context.micro_batch_rows,
                    temperature=self.temperature if attempt else None,
                    seed=int(seed),
                    advance=advance,
                )
            for place, answer in zip(open_places, answers, strict=True):
                if answer.end is not None and self.is_correct(answer, context, place):
                    found[place] = OwnAnswer.of(prompts[place], [*answer.ids, answer.end])
            open_places = [place for place in open_places if place not in found]
        return found

    def is_correct(self, answer: Generated, context: TaskContext, place: int) -> bool:
        """Whether an answer to the row at a place scores `correct_from` or more by the task's metric."""
        key = context.key_of(place)
        text = key.read(answer.ids, context.tokenizer)
        scores = row_scores(context.metric, [text], [key.references], [context.prompts[place]])
        return scores[0] >= self.correct_from

    def memory_writer(self, context: TaskContext, samples: Sequence[TokenizedRow], **options: Any) -> MemoryWriter:
        own = sum(isinstance(sample, OwnAnswer) for sample in samples)
        return super().memory_writer(context, samples, **options, facts={"own_answers": own})


class OwnAnswer(KeptSample):
    """A kept row whose answer is the model's own."""


def prompt_of(row: TokenizedRow) -> np.ndarray:
    """The token ids before a row's only answer, which ends it; none where there is no such answer."""
    labels = np.asarray(row.labels)
    start = int((labels != IGNORED).argmax())
    return np.asarray(row.input_ids)[: start if (labels[start:] != IGNORED).all() else 0]
