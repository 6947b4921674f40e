"""A grafted model is what eager attention makes of the donor's built maps and its own values, answers included."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import attention_definitions as by_definition
import numpy as np
import pytest
import torch
from families import HYBRID, LENGTHS, REFUSED, Family
from peft import LoraConfig, get_peft_model
from test_families import READ_WHOLE, llama_that_looks_at_the_name
from torch import Tensor, nn

from seekr.attention.graft import Graft, check_graft
from seekr.errors import InputError
from seekr.modeling.generation import Generated, generate_tokens

Heads = Mapping[int, Sequence[int]] | None
SOME = {0: [1], 2: [0, 3]}  # query heads 0 and 1 share keys and values, and so do 2 and 3
TOKENIZER = SimpleNamespace(pad_token_id=0, eos_token_id=2, bos_token_id=1)
PROMPTS = [np.array(ids) for ids in ([5, 17, 40, 8, 61, 33, 9], [7, 3, 90], [11, 52, 13, 29, 70])]


@pytest.fixture
def model() -> nn.Module:
    return by_definition.tiny_llama()


@pytest.fixture
def donor(model: nn.Module) -> nn.Module:
    return by_definition.moved(model, 0.3)


def logits_of(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**by_definition.inputs_of(batch), use_cache=False).logits


def reference(model: nn.Module, donor: nn.Module, batch: dict[str, Tensor], heads: Heads = None) -> Tensor:
    """Logits by eager attention in which the donor's built maps stand in place of the model's own."""
    plain = [m.get_base_model() if hasattr(m, "get_base_model") else m for m in (model, donor)]
    eager_model, eager_donor = map(by_definition.eager, plain)
    with torch.no_grad():
        maps = by_definition.eager_maps(eager_donor, batch)
    attention = next(m for m in eager_model.modules() if isinstance(getattr(m, "layer_idx", None), int))
    file = sys.modules[type(attention).__module__]
    original = file.eager_attention_forward

    def swapped(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **more: object
    ) -> tuple[Tensor, Tensor]:
        used = maps[module.layer_idx]
        if heads is not None:
            used = original(module, query, key, value, mask, **more)[1].clone()
            chosen = list(heads.get(module.layer_idx, ()))
            used[:, chosen] = maps[module.layer_idx][:, chosen]
        values = value.repeat_interleave(used.shape[1] // value.shape[1], dim=1)
        return (used @ values).transpose(1, 2).contiguous(), used

    file.eager_attention_forward = swapped
    try:
        return logits_of(eager_model, batch)
    finally:
        file.eager_attention_forward = original


def reference_answer(model: nn.Module, donor: nn.Module, prompt: np.ndarray, heads: Heads, count: int) -> list[int]:
    """Greedy tokens of one prompt alone, all of it read again for each of them: no cache, no padding."""
    ids = torch.from_numpy(prompt)[None]
    for _ in range(count):
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        ids = torch.cat([ids, reference(model, donor, batch, heads)[:, -1:].argmax(dim=-1)], dim=1)
    return ids[0, len(prompt) :].tolist()


def answers_of(model: nn.Module, batch_size: int, count: int = 6) -> list[Generated]:
    return generate_tokens(model, TOKENIZER, PROMPTS, max_new_tokens=count, batch_size=batch_size)


def tokens_of(answer: Generated) -> list[int]:
    return [*answer.ids, *([] if answer.end is None else [answer.end])]


def real(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return logits[batch["attention_mask"].bool()]


@pytest.mark.parametrize("family", READ_WHOLE, ids=lambda family: family.name)
def test_grafting_a_model_onto_itself_changes_no_bit(family: Family) -> None:
    model = family.model()
    same = copy.deepcopy(model)
    check_graft(model, same)
    for side in ("left", "right"):
        batch = by_definition.make_batch(LENGTHS, side=side)
        plain = logits_of(model, batch)
        for heads in (None, {1: [0, 2]}):
            with Graft(model, same, heads):
                assert torch.equal(real(logits_of(model, batch), batch), real(plain, batch))
    plain_answers = answers_of(model, 2)
    with Graft(model, same):
        assert answers_of(model, 2) == plain_answers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_grafting_a_half_precise_model_onto_itself_changes_no_bit(
    model: nn.Module, dtype: torch.dtype, implementation: str
) -> None:
    model.to(dtype).set_attn_implementation(implementation)
    batch = by_definition.make_batch(LENGTHS, side="left")
    plain = logits_of(model, batch)
    with Graft(model, copy.deepcopy(model), SOME):
        assert torch.equal(logits_of(model, batch), plain)


@pytest.mark.parametrize("family", READ_WHOLE, ids=lambda family: family.name)
@pytest.mark.parametrize("side", ["left", "right"])
def test_all_heads_equal_eager_attention_over_the_donors_built_maps(family: Family, side: str) -> None:
    model = family.model()
    donor = by_definition.moved(model, 0.3)
    batch = by_definition.make_batch(LENGTHS, side=side)
    expected = real(reference(model, donor, batch), batch)
    with Graft(model, donor):
        found = real(logits_of(model, batch), batch)
    assert by_definition.relative_error(found, expected) < 1e-5
    assert by_definition.relative_error(real(logits_of(model, batch), batch), expected) > 1e-2


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("heads", [SOME, {1: []}, {0: [0, 1, 2, 3]}], ids=str)
def test_some_heads_equal_eager_attention_over_mixed_maps(
    model: nn.Module, donor: nn.Module, heads: Heads, implementation: str
) -> None:
    """Also heads that share their keys with one that is not grafted."""
    for one in (model, donor):
        one.set_attn_implementation(implementation)
    batch = by_definition.make_batch((13, 1, 8), side="left")
    with Graft(model, donor, heads):
        found = logits_of(model, batch)
    expected = reference(model, donor, batch, heads)
    assert by_definition.relative_error(real(found, batch), real(expected, batch)) < 1e-5


@pytest.mark.parametrize("heads", [None, SOME], ids=["all", "some"])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_answers_in_batches_with_caches_equal_each_prompt_read_again(
    model: nn.Module, donor: nn.Module, heads: Heads, batch_size: int
) -> None:
    with Graft(model, donor, heads):
        found = [tokens_of(answer) for answer in answers_of(model, batch_size)]
    plain = [tokens_of(answer) for answer in answers_of(model, batch_size)]
    assert found != plain
    for prompt, tokens in zip(PROMPTS, found, strict=True):
        assert tokens == reference_answer(model, donor, prompt, heads, len(tokens))


def test_adapters_on_one_base_are_grafted_as_whole_models(model: nn.Module) -> None:
    def adapted(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        lora = LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj"], init_lora_weights=False)
        return get_peft_model(copy.deepcopy(model), lora).eval()

    new, old = adapted(1), adapted(2)
    batch = by_definition.make_batch(LENGTHS, side="left")
    with Graft(new, old):
        found, answers = logits_of(new, batch), answers_of(new, 3)
    assert by_definition.relative_error(real(found, batch), real(reference(new, old, batch), batch)) < 1e-5
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        tokens = tokens_of(answer)
        assert tokens == reference_answer(new, old, prompt, None, len(tokens))


def test_both_models_are_what_they_were_afterwards(model: nn.Module, donor: nn.Module) -> None:
    batch = by_definition.make_batch(LENGTHS)
    plain = [logits_of(one, batch) for one in (model, donor)]
    with pytest.raises(TypeError), Graft(model, donor):
        model(input_ids="no tensor")
    for one, logits in zip((model, donor), plain, strict=True):
        assert one.config._attn_implementation == "sdpa"
        assert torch.equal(logits_of(one, batch), logits)
        assert not any(module._forward_pre_hooks for module in one.modules())


def test_a_donor_must_be_another_state_of_the_model(model: nn.Module) -> None:
    deeper = by_definition.tiny_llama(num_hidden_layers=4, num_key_value_heads=4)
    with pytest.raises(InputError, match=r"another model .*: layers 4 and 3, key/value heads 4 and 2"):
        Graft(model, deeper)
    with pytest.raises(RuntimeError, match="another tap"), Graft(model, model):
        pass
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("heads", [{3: [0]}, {0: [4]}, {-1: [0]}], ids=str)
def test_heads_must_be_heads_of_the_model(model: nn.Module, donor: nn.Module, heads: Heads) -> None:
    with pytest.raises(InputError, match="3 layers of 4 heads"):
        Graft(model, donor, heads)


def test_what_the_donor_cannot_read_is_refused(model: nn.Module, donor: nn.Module) -> None:
    ids = torch.tensor([[4, 5, 6]])
    with torch.no_grad():
        cache = model(input_ids=ids).past_key_values
        with pytest.raises(InputError, match="begin with an empty cache"), Graft(model, donor):
            model(input_ids=ids, past_key_values=cache)
        with pytest.raises(InputError, match="needs the tokens"), Graft(model, donor):
            model(inputs_embeds=model.get_input_embeddings()(ids))


@pytest.mark.parametrize("family", REFUSED + HYBRID, ids=lambda family: family.name)
def test_families_whose_attention_cannot_be_stood_in_for_are_refused(family: Family) -> None:
    model = family.model()
    with pytest.raises(InputError, match=r"no maps can be grafted|no attention heads"):
        check_graft(model, copy.deepcopy(model))


def test_a_model_that_looks_at_the_name_of_its_attention_is_refused() -> None:
    model = llama_that_looks_at_the_name()
    with pytest.raises(InputError, match="computes other values while its attention is stood in for"):
        check_graft(model, copy.deepcopy(model))
