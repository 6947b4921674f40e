"""What a model makes of test rows, many at a time: answers that it generates, or how likely it finds the right ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from seekr.data.token_rows import TokenizedRow
from seekr.distributed.processes import process_count, spread
from seekr.distributed.sharded import is_sharded
from seekr.modeling.balancing import without_balance
from seekr.modeling.batches import collate, padded
from seekr.modeling.inputs import model_inputs
from seekr.modeling.losses import answer_positions, logits_at
from seekr.scoring.likelihood import RowLikelihood

R = TypeVar("R")


class Generated(NamedTuple):
    """A generated answer: the token ids before its end, and the end token, None where `max_new_tokens` cut it."""

    ids: list[int]
    end: int | None


def generate_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[np.ndarray],
    *,
    max_new_tokens: int,
    batch_size: int = 64,
    temperature: float | None = None,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> list[Generated]:
    """An answer to each prompt as token ids: greedy, or drawn where there is a `temperature`.

    Penalties and whatever else the model's generation settings hold are left aside, apart from their end tokens.
    Random state, training flags and generation settings of the model stay as they were.
    Of several processes each answers a part of the batches, and all of them get all answers. With a sharded model
    each answers equally many, the first batch again where there are not enough.

    Args:
        model: a causal language model of transformers, or peft's wrapping of one.
        prompts: token ids, `[tokens]` each, at least one; with `max_new_tokens` they must fit the model's
            positions.
        max_new_tokens: the end token included.
        batch_size: prompts per forward. They are sorted by length, the longest first, so that what does not
            fit into memory shows at once; greedy answers do not depend on it, but for rounding.
        temperature: by which logits are divided before a token is drawn from all of them; None = the likeliest.
        seed: what is drawn by, together with the batch's place.
        advance: called with the number of answers that each batch adds.

    Returns:
        One answer per prompt, in their order.

    Raises:
        ValueError: if a prompt has no token.
    """
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("a prompt without tokens cannot be answered")
    settings = answering_settings(model.generation_config, tokenizer, max_new_tokens=max_new_tokens)
    if temperature is not None:
        settings.update(do_sample=True, temperature=temperature, top_k=0, top_p=1.0)
    ends, pad = settings.eos_token_id, settings.pad_token_id
    in_step = is_sharded(model)

    def answer(place: int, rows: list[int]) -> list[Generated]:
        if temperature is not None:
            torch.manual_seed(int(np.random.SeedSequence([seed, place]).generate_state(1)[0]))
        ids, mask = pad_left([prompts[i] for i in rows], pad, model.device)
        # Positions are counted from the mask by generate() itself: peft's wrappers take none.
        generated: torch.Tensor = model.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, generation_config=settings, synced_gpus=in_step
        )
        return [until_end(found, ends) for found in generated[:, ids.shape[1] :].tolist()]

    return _in_batches(model, [len(prompt) for prompt in prompts], batch_size, answer, advance)


def answer_likelihoods(
    model: PreTrainedModel,
    rows: Sequence[TokenizedRow],
    pad_token_id: int | None,
    *,
    batch_size: int,
    inputs: Callable[[dict[str, Tensor]], Mapping[str, Tensor]] = model_inputs,
    advance: Callable[[int], None] | None = None,
) -> list[RowLikelihood]:
    """How likely the answer of each row is, by its own tokens in one forward: those that training counts.

    Random state, training flags, processes and sharded models are as of `generate_tokens`.

    Args:
        rows: token ids, prompt and answer, and labels.
        batch_size: rows of a forward, the longest first.
        inputs: the forward arguments of a batch as `collate` makes it.
        advance: called with the number of rows that each batch adds.
    """

    def measure(_: int, some: list[int]) -> list[RowLikelihood]:
        batch = {name: t.to(model.device) for name, t in collate([rows[i] for i in some], pad_token_id).items()}
        places, positions = answer_positions(batch["labels"])
        logits = logits_at(model, dict(inputs(batch)), places, positions).float()
        losses = functional.cross_entropy(logits, batch["labels"][places, positions + 1], reduction="none").cpu()
        sums = torch.zeros(len(some), dtype=torch.float64).index_add(0, places.cpu(), losses.double())
        counts = places.cpu().bincount(minlength=len(some))
        return [RowLikelihood(-loss, count) for loss, count in zip(sums.tolist(), counts.tolist(), strict=True)]

    return _in_batches(model, [len(row.input_ids) for row in rows], batch_size, measure, advance)


def _in_batches(
    model: PreTrainedModel,
    lengths: Sequence[int],
    batch_size: int,
    work: Callable[[int, list[int]], list[R]],
    advance: Callable[[int], None] | None,
) -> list[R]:
    """What `work(place, rows)` gives for the rows of each batch, the longest first, in the order of the rows."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])

    def counted(place: int, rows: list[int]) -> list[R]:
        found = work(place, rows)
        if advance is not None:  # the other processes are at work on the batches after this one
            advance(len(order[place * batch_size : (place + process_count()) * batch_size]))
        return found

    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    filling = batches[:1] * (-len(batches) % process_count() if is_sharded(model) else 0)
    with only_asked(model):
        found = chain.from_iterable(spread([*batches, *filling], counted)[: len(batches)])
    results = dict(zip(order, found, strict=True))
    return [results[i] for i in range(len(lengths))]


def answering_settings(
    own: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase, **more: Any
) -> GenerationConfig:
    """The generation settings that answers are scored by, given a model's own: greedy, up to any of its end tokens."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=end_tokens(own, tokenizer),
        pad_token_id=pad,
        bos_token_id=tokenizer.bos_token_id,
        **more,
    )


def end_tokens(settings: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokenizer's end token, then those that a model's generation settings name as well (end of turn)."""
    named = settings.eos_token_id if settings is not None else None
    others = named if isinstance(named, list) else [named]
    return list(dict.fromkeys(int(token) for token in (tokenizer.eos_token_id, *others) if token is not None))


def pad_left(prompts: Sequence[np.ndarray], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (1 = token), int64 `[prompts, length]`: every prompt ends in the last column."""
    masks = [np.ones(len(prompt)) for prompt in prompts]
    return padded(prompts, pad, "left").to(device), padded(masks, 0, "left").to(device)


def until_end(answer: list[int], ends: list[int]) -> Generated:
    """The tokens of an answer before the first that ends it."""
    stop = next((position for position, token in enumerate(answer) if token in ends), None)
    return Generated(answer, None) if stop is None else Generated(answer[:stop], answer[stop])


@contextmanager
def only_asked(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode, no gradients, no generation settings but those handed over; everything as before on leaving."""
    flags = {module: module.training for module in model.modules()}
    owners = {module: module.generation_config for module in flags if "generation_config" in vars(module)}
    cuda = [model.device] if model.device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(without_balance(model))
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        try:
            # generate() fills what is not handed over from the model's own settings: temperature, penalties,
            # ...
            for module in owners:
                module.generation_config = GenerationConfig()  # type: ignore[assignment]
            model.eval()
            yield
        finally:
            for module, training in flags.items():
                module.training = training
            for module, settings in owners.items():
                module.generation_config = settings
