"""LFPT5: one soft prompt solves the tasks and generates rows of them, which are replayed in place of stored ones."""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import GenerationConfig

from seekr.data.token_rows import TokenizedRow
from seekr.distributed.processes import say_once, spread
from seekr.memory.reader import KeptSample
from seekr.methods.base import Objective, TaskContext
from seekr.methods.derpp import LogitRehearsal, LogitReplay
from seekr.methods.replay import Ratio
from seekr.methods.soft_prompts import SoftPromptForm, answer_starts
from seekr.modeling.batches import MicroBatch, collate
from seekr.modeling.generation import only_asked, pad_left
from seekr.modeling.losses import answer_cross_entropy, answer_positions

ROUNDS = 8
"""How often as many rows are drawn as are missing."""

BATCH = 64
"""Rows that are drawn together."""


class SolverForm(SoftPromptForm):
    """One soft prompt, and room for the generation token."""

    method: Lfpt5

    def virtual_tokens(self, tasks: int) -> int:
        return self.method.prompt_tokens + 2  # the generation token, twice


class Lfpt5(LogitRehearsal):
    """One prompt P is tuned through all tasks on a frozen model, as task solver and as generator of rows.

    A task step's loss is the answers' cross-entropy on [P, x, y] plus `lm_weight` times that of all tokens of
    [P, g, x, g, y], where g is the generation token: the tokenizer's end token, or the first special token, else the
    first token at all, that is in no prompt of the task. When the task is learned, pseudo-samples are drawn: x from
    [P, g] up to the next g, then y from [P, g, x, g] up to its end token. They are kept with the model's distributions
    at their answers and replayed in the tasks that follow, with the loss of `derpp`; no row of the data is kept.
    The paper draws from all earlier tasks again before each task, with a generation token for each; here a task's rows
    are drawn once, while the model knows it best.

    What is drawn is dropped if it does not end within the longest prompt or answer of the task's rows, if prompt or
    answer is empty, or if both together are longer than the longest row; the rest is drawn again, up to 8 times. A run
    goes on with what there is, none included, and says so. A skill (learn: false) is not remembered: the base model
    never learned to generate it. A stage's `model` folder loads with plain peft.

    Args:
        prompt_tokens: virtual tokens of P. The released code has 300 for T5-large; more cost time and positions.
        lm_weight: λ_lm; 0.25 is the released code's for classification.
        pseudo_ratio: pseudo-samples as a share of the task's rows; at least one is wanted. 0.2 is LAMOL's
            (arXiv 1909.03329); the paper, with 16 rows a class, has a fixed number.
        top_k: a token is drawn from the likeliest `top_k`; 64 as in the released code.
        logit_weight, logit_shift, logit_top_k: as of `derpp`: the paper's KL term for consistency. 0.01 is the released
            code's weight, there on a sum over the vocabulary's entries.

    Source: Qin & Joty, arXiv 2110.07298, section 3; from an encoder-decoder carried over to a decoder.
    """

    name = "lfpt5"
    unplanned = "generating rows, with their keys and values"
    form = property(SolverForm)
    generates = True
    free = LogitRehearsal.free - {"average"}

    prompt_tokens: Annotated[int, Field(ge=1)] = 20
    lm_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.25
    pseudo_ratio: Ratio = 0.2
    top_k: Annotated[int, Field(ge=1)] = 64
    logit_weight: Annotated[float, Field(ge=0, le=1)] = 0.01

    def kept_rows(self, rows: int) -> int:
        """max(1, round(pseudo_ratio × rows)), if the model generates as many."""
        return max(1, round(self.pseudo_ratio * rows))

    def start(self, context: TaskContext) -> Objective:
        return SolverAndGenerator(self, context, generation_token(context))

    def pretend(self, context: TaskContext) -> Objective:
        return SolverAndGenerator(self, context, 0)

    def kept_samples(self, context: TaskContext) -> list[KeptSample]:
        """The pseudo-samples of the task."""
        wanted = self.kept_rows(len(context.samples)) if context.learn else 0
        drawing = RowDrawing(context, self.top_k)
        kept: list[KeptSample] = []
        with only_asked(drawing.model), context.track(f"generating {context.task}", wanted) as advance:
            for attempt in range(ROUNDS):
                found = drawing.rows(wanted - len(kept), attempt) if len(kept) < wanted else []
                kept += found
                advance(len(found))
        if len(kept) < max(wanted, 1):
            why = "were usable" if context.learn else "are drawn of a skill: the base model never learned to"
            say_once(f"task {context.task}: {len(kept)} of {wanted} pseudo-samples {why}")
        return kept


class SolverAndGenerator(LogitReplay):
    """The model answers the task's rows and writes them; `rows` are the forms of the latter, [g, x, g, y]."""

    method: Lfpt5

    def __init__(self, method: Lfpt5, context: TaskContext, token: int) -> None:
        super().__init__(method, context.memories())
        self.rows = [generator_row(sample, token) for sample in context.samples]

    def task_loss(self, model: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
        if not self.method.lm_weight:
            return super().task_loss(model, batch)
        form = collate([self.rows[i] for _, i in batch.rows], None)
        form = {name: tensor.to(batch.labels.device) for name, tensor in form.items()}
        longer = form["labels"].shape[1] - batch.labels.shape[1]
        # One forward for both forms: data-parallel training expects one a step.
        inputs = {
            name: torch.cat([nn.functional.pad(batch.inputs[name], (0, longer)), form[name]])
            for name in ("input_ids", "attention_mask")
        }
        solved, generated = model(**inputs, use_cache=False).logits.chunk(2)
        tokens = sum(len(self.rows[i].input_ids) - 1 for _, i in batch.step_rows)
        written = answer_cross_entropy(generated[answer_positions(form["labels"])], form["labels"], batch.weights)
        return {"task": batch.answer_loss(solved[batch.answers_at]), "lm": self.method.lm_weight * written / tokens}


class RowDrawing:
    """Draws rows of a task from the model that has just learned it."""

    def __init__(self, context: TaskContext, top_k: int) -> None:
        self.model: Any = context.model
        self.tokenizer = context.tokenizer
        self.top_k = top_k
        self.token = generation_token(context)
        self.seed = context.seed, context.index
        starts = [answer_start(sample) for sample in context.samples]
        self.longest = max(len(sample.input_ids) for sample in context.samples)
        self.longest_prompt = max(starts)
        self.longest_answer = max(
            len(sample.input_ids) - start for sample, start in zip(context.samples, starts, strict=True)
        )

    def rows(self, count: int, attempt: int) -> list[KeptSample]:
        """As many rows as are usable of `count` that are drawn, by a seed of the run, the task and the attempt."""

        def draw_prompts(place: int, starts: list[list[int]]) -> list[list[int]]:
            torch.manual_seed(self._seed(attempt, 0, place))
            return self._continue(starts, self.longest_prompt + 1, self.token)

        def draw_answers(place: int, prompts: list[list[int]]) -> list[list[int]]:
            torch.manual_seed(self._seed(attempt, 1, place))
            room = min(self.longest_answer, self.longest - len(prompts[0]))
            return self._continue([[self.token, *prompt, self.token] for prompt in prompts], room, end)

        end = int(self.tokenizer.eos_token_id)
        drawn = chain.from_iterable(spread(_in_batches([[self.token]] * count), draw_prompts))
        prompts = sorted(filter(self._says_something, drawn), key=len, reverse=True)
        answers = chain.from_iterable(spread(_in_batches(prompts), draw_answers))
        return [
            KeptSample.of(prompt, [*answer, end])
            for prompt, answer in zip(prompts, answers, strict=True)
            if self._says_something(answer)
        ]

    def _seed(self, *places: int) -> int:
        return int(np.random.SeedSequence([*self.seed, *places]).generate_state(1)[0])

    def _says_something(self, ids: list[int]) -> bool:
        return bool(str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip())

    def _continue(self, starts: list[list[int]], most: int, end: int) -> list[list[int]]:
        """What is drawn after each start, up to the token `end`; nothing where that does not come."""
        settings = GenerationConfig(
            do_sample=True, top_k=self.top_k, max_new_tokens=most, eos_token_id=end, pad_token_id=end
        )
        ids, mask = pad_left([np.array(ids) for ids in starts], end, self.model.device)
        drawn = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        return [ids[: ids.index(end)] if end in ids else [] for ids in drawn[:, ids.shape[1] :].tolist()]


def _in_batches(rows: list[list[int]]) -> list[list[list[int]]]:
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def generation_token(context: TaskContext) -> int:
    """g: the end token, or the first of the special tokens, else of all, that no prompt of the task has in it."""
    taken = {int(token) for sample in context.samples for token in sample.input_ids[: answer_start(sample)]}
    tokenizer = context.tokenizer
    candidates = [tokenizer.eos_token_id, *tokenizer.all_special_ids, *range(len(tokenizer))]
    return int(next((token for token in candidates if token not in taken), candidates[0]))


def generator_row(sample: TokenizedRow, token: int) -> KeptSample:
    """[g, x, g, y] of a row [x, y], every token but the first to be predicted."""
    ids, start = np.asarray(sample.input_ids, dtype=np.int32), answer_start(sample)
    mark = np.array([token], dtype=np.int32)
    ids = np.concatenate([mark, ids[:start], mark, ids[start:]])
    return KeptSample(ids, ids)


def answer_start(sample: TokenizedRow) -> int:
    """Where the last answer of a row begins."""
    return int(answer_starts(torch.as_tensor(np.asarray(sample.labels))[None]))
