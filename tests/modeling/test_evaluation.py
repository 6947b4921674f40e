"""Generated answers, and likelihoods of given ones: what they depend on, and what they leave as it was."""

import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from short_forms import generate_answers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from seekr.memory.reader import KeptSample
from seekr.modeling.generation import answer_likelihoods

SIZE = 40


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Words w0, w1, ..., each the token of its number; no padding token."""
    pieces = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(3, SIZE))]
    backend = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def make_model(family: str) -> PreTrainedModel:
    torch.manual_seed(1)
    if family == "gpt2":
        config = GPT2Config(
            vocab_size=SIZE, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.6, eos_token_id=2
        )
        return GPT2LMHeadModel(config)
    config = LlamaConfig(
        vocab_size=SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(params=["llama", "gpt2", "lora"])
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    if request.param != "lora":
        return make_model(request.param)
    adapted = get_peft_model(
        make_model("llama"), LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return adapted


def draw_prompts(count: int = 23) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, SIZE, rng.integers(1, 17)).astype(np.int32) for _ in range(count)]


@torch.no_grad()
def one_by_one(model: torch.nn.Module, prompt: np.ndarray, max_new_tokens: int, ends: tuple[int, ...] = (2,)) -> str:
    """Greedy decoding, written out: one prompt, no padding, no cache."""
    model.eval()
    ids, answer = prompt.tolist(), []
    for _ in range(max_new_tokens):
        token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
        answer.append(token)
    return " ".join(f"w{token}" for token in answer if token > 2)


def test_answers_are_those_of_greedy_decoding_at_any_batch_size(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompts = draw_prompts()
    expected = [one_by_one(model, prompt, 9) for prompt in prompts]
    assert len(set(expected)) > 10
    assert len({len(answer.split()) for answer in expected}) > 1  # some end by themselves
    for batch_size in (1, 7, 64):
        answers = generate_answers(model, tokenizer, prompts, max_new_tokens=9, batch_size=batch_size)  # type: ignore[arg-type]
        assert answers == expected


def draw_rows(count: int = 23) -> list[KeptSample]:
    """Rows with answers anywhere: none, the first token, several stretches."""
    rng = np.random.default_rng(2)
    rows = []
    for _ in range(count):
        ids = rng.integers(3, SIZE, rng.integers(1, 17)).astype(np.int32)
        rows.append(KeptSample(ids, np.where(rng.random(len(ids)) < 0.4, ids, -100).astype(np.int32)))
    return rows


@torch.no_grad()
def likelihood_by_definition(model: torch.nn.Module, row: KeptSample) -> tuple[float, int]:
    """Σ log p(token | tokens before it) over a row's labels, each from a forward of its own over what is before."""
    model.eval()
    total, count = 0.0, 0
    for place in range(1, len(row.labels)):
        if row.labels[place] != -100:
            logits = model(torch.tensor([row.input_ids[:place].tolist()])).logits[0, -1].double()
            total += float((logits.exp() / logits.exp().sum())[row.labels[place]].log())
            count += 1
    return total, count


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_likelihoods_are_those_of_one_token_after_another(model: torch.nn.Module, batch_size: int) -> None:
    rows = draw_rows()
    found = answer_likelihoods(model, rows, None, batch_size=batch_size)  # type: ignore[arg-type]
    expected = [likelihood_by_definition(model, row) for row in rows]
    assert [one.answer_tokens for one in found] == [count for _, count in expected]
    assert min(count for _, count in expected) == 0
    assert [one.log_likelihood for one in found] == pytest.approx([total for total, _ in expected], rel=1e-5, abs=1e-5)


def test_likelihoods_of_half_precision_are_summed_in_full() -> None:
    """bfloat16 could not hold a sum of hundreds of tokens."""
    rows = draw_rows()
    rows = [KeptSample(np.tile(row.input_ids, 30)[:60], np.tile(row.input_ids, 30)[:60]) for row in rows]
    whole = answer_likelihoods(make_model("llama"), rows, 0, batch_size=4)
    half = answer_likelihoods(make_model("llama").bfloat16(), rows, 0, batch_size=4)
    assert len({one.log_likelihood for one in half}) == len({one.log_likelihood for one in whole}) > 20
    assert [one.log_likelihood for one in half] == pytest.approx([one.log_likelihood for one in whole], rel=0.05)


def test_nothing_else_changes(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast) -> None:
    model.train()
    next(iter(model.children())).eval()  # a part that is frozen in evaluation mode stays so
    flags = [module.training for module in model.modules()]
    settings = model.generation_config
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    generate_answers(model, tokenizer, draw_prompts(5), max_new_tokens=4)  # type: ignore[arg-type]
    answer_likelihoods(model, draw_rows(5), None, batch_size=2)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == flags
    assert model.generation_config is settings
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.is_grad_enabled()


def test_everything_is_put_back_after_a_failure(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("llama").train()
    settings = model.generation_config

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_answers(model, tokenizer, draw_prompts(5), max_new_tokens=4, advance=stop)
    assert model.training
    assert model.generation_config is settings
    assert torch.is_grad_enabled()


def test_the_models_own_generation_settings_do_not_count_nor_warn(
    tokenizer: PreTrainedTokenizerFast, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    model, prompts = make_model("llama"), draw_prompts()
    expected = [one_by_one(model, prompt, 9) for prompt in prompts]
    for key, value in {"do_sample": True, "temperature": 0.2, "top_p": 0.5, "repetition_penalty": 3.0}.items():
        setattr(model.generation_config, key, value)
    model.generation_config.max_length = 3
    warnings.simplefilter("always")
    assert generate_answers(model, tokenizer, prompts, max_new_tokens=9) == expected
    assert [str(w.message) for w in recwarn if "generation" in str(w.message)] == []
    assert caplog.records == []


def test_end_tokens_of_the_models_settings_count_too(tokenizer: PreTrainedTokenizerFast) -> None:
    model, prompts = make_model("llama"), draw_prompts()
    plain = [one_by_one(model, prompt, 9) for prompt in prompts]
    end = next(int(answer.split()[1][1:]) for answer in plain if len(answer.split()) > 3)
    model.generation_config.eos_token_id = [2, end]
    answers = generate_answers(model, tokenizer, prompts, max_new_tokens=9)
    assert answers == [one_by_one(model, prompt, 9, (2, end)) for prompt in prompts]
    assert answers != plain


def test_progress_counts_every_answer_once(tokenizer: PreTrainedTokenizerFast) -> None:
    steps: list[int] = []
    answers = generate_answers(
        make_model("llama"), tokenizer, draw_prompts(10), max_new_tokens=2, batch_size=4, advance=steps.append
    )
    assert (steps, len(answers)) == ([4, 4, 2], 10)
    answer_likelihoods(make_model("llama"), draw_rows(10), None, batch_size=4, advance=steps.append)
    assert steps[3:] == [4, 4, 2]
    assert generate_answers(make_model("llama"), tokenizer, [], max_new_tokens=2) == []
    with pytest.raises(ValueError, match="without tokens"):
        generate_answers(make_model("llama"), tokenizer, [np.array([], dtype=np.int32)], max_new_tokens=2)
