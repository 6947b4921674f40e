"""Makes the built-in model: `python benchmarks/make_builtin_model.py --output DIR`, some minutes on one core."""

import argparse
import logging
import math
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from builtin_text import Pieces, draw_text
from builtin_tokenizer import make_tokenizer
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

log = logging.getLogger(__name__)

POSITIONS = 128


def make_config(
    tokenizer: PreTrainedTokenizerFast, *, layers: int = 4, width: int = 128, heads: int = 8
) -> LlamaConfig:
    """A Llama with half as many key/value heads as heads and an MLP of three times its width."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[Pieces]) -> dict[str, Tensor]:
    """Padded `input_ids`, `attention_mask` and `labels`, each [texts, length].

    Only what follows from the text before it is a label: the rest is random, and would be noise.
    """
    encodings = tokenizer(["".join(piece for piece, _ in text) for text in texts], return_offsets_mapping=True)
    length = max(map(len, encodings["input_ids"])) + 1
    input_ids = torch.full((len(texts), length), tokenizer.pad_token_id)
    mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, -100)
    for row, (text, ids, offsets) in enumerate(
        zip(texts, encodings["input_ids"], encodings["offset_mapping"], strict=True)
    ):
        follows = [known for piece, known in text for _ in piece]
        input_ids[row, : len(ids) + 1] = torch.tensor([*ids, tokenizer.eos_token_id])
        mask[row, : len(ids) + 1] = 1
        known = torch.tensor([end > start and follows[start] for start, end in offsets] + [True])
        labels[row, : len(known)][known] = input_ids[row, : len(known)][known]
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
) -> None:
    """Trains in place on texts drawn from the seed; AdamW, a short warm-up and a cosine down to nothing."""
    rng = random.Random(f"pretrain {seed}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    warmup = max(1, min(200, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))
    )
    model.train()
    for step in range(1, steps + 1):
        batch = encode(tokenizer, [draw_text(rng) for _ in range(batch_size)])
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0 or step == steps:
            log.info("step %d of %d: loss %.3f nats a token", step, steps, loss.item())
    model.eval()


def make_model(
    output: Path, *, seed: int = 0, steps: int = 2400, layers: int = 4, width: int = 128, heads: int = 8
) -> None:
    """Writes model and tokenizer to the folder `output`, ready for `from_pretrained`.

    The same arguments give the same weights on the same machine and torch: it runs on one thread.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(POSITIONS)
    model = LlamaForCausalLM(make_config(tokenizer, layers=layers, width=width, heads=heads))
    pretrain(model, tokenizer, seed=seed, steps=steps)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write the model and tokenizer to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2400, help="optimizer steps of pre-training")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    make_model(arguments.output, seed=arguments.seed, steps=arguments.steps)


if __name__ == "__main__":
    main()
