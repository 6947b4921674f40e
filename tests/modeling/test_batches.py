"""Collation: what is padded is masked, and the model sees each row as if it were alone."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from seekr.data.token_rows import answer_tokens
from seekr.modeling.batches import MicroBatch, collate


@dataclass
class Row:
    input_ids: np.ndarray
    labels: np.ndarray


def row(*tokens: int, answer_from: int) -> Row:
    labels = [token if i >= answer_from else -100 for i, token in enumerate(tokens)]
    return Row(np.array(tokens, dtype=np.int32), np.array(labels, dtype=np.int32))


def test_padding_is_masked_and_positions_count_tokens() -> None:
    batch = collate([row(5, 6, 7, answer_from=2), row(8, answer_from=1)], pad_token_id=3)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 3, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["position_ids"][0].tolist() == [0, 1, 2]
    assert batch["position_ids"][1, 0] == 0
    assert batch["labels"].tolist() == [[-100, -100, 7], [-100, -100, -100]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_rows_may_come_from_read_only_memory() -> None:
    kept = row(1, 2, 3, answer_from=1)
    kept.input_ids.setflags(write=False)
    batch = collate([kept], None)
    batch["input_ids"] += 1
    assert kept.input_ids.tolist() == [1, 2, 3]


@pytest.mark.parametrize(("answer_from", "expected"), [(0, 3), (1, 3), (2, 2), (4, 0)])
def test_the_first_token_is_never_an_answer_token(answer_from: int, expected: int) -> None:
    assert answer_tokens(row(1, 2, 3, 4, answer_from=answer_from)) == expected


def test_a_padded_row_gets_the_logits_it_has_alone() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=16, n_embd=8, n_layer=2, n_head=2)).eval()
    rows = [row(1, 2, 3, 4, 5, 6, answer_from=3), row(7, 8, answer_from=1)]

    def logits(chosen: list[Row]) -> torch.Tensor:
        batch = collate(chosen, None)
        return model(**{name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}).logits

    together, alone = logits(rows)[1, :2], logits(rows[1:])[0]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_a_micro_batch_moves_with_all_its_tensors() -> None:
    samples = [row(1, 2, answer_from=1)]
    batch = MicroBatch.of("task", samples, None, rows=[(-1, 0)], step_rows=[(-1, 0)], step_tokens=1)
    moved = batch.to("meta")
    assert {tensor.device.type for tensor in (*moved.inputs.values(), moved.labels, moved.weights)} == {"meta"}
    assert (moved.kind, moved.rows, moved.step_tokens, moved.step_rows) == ("task", [(-1, 0)], 1, [(-1, 0)])
    assert batch.labels.device.type == "cpu"
