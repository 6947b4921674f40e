"""Many tensors in one buffer: bit for bit what was put in, of every dtype and odd size, wherever the buffer goes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transfers import Moves

from seekr.modeling.flat_tensors import FlatTensors

DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)
SHAPES = ((), (0,), (3, 0, 5), (1,), (7,), (3, 5), (2, 3, 11))


def odd_tensors(seed: int = 0) -> dict[str, Tensor]:
    """Any bits at all, NaN and -0.0 among them; one that is not contiguous."""
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for dtype in DTYPES:
        for shape in SHAPES:
            size = torch.Size(shape).numel() * dtype.itemsize
            raw = torch.randint(0, 2 if dtype == torch.bool else 256, (size,), generator=draw, dtype=torch.uint8)
            found[f"{dtype}/{shape}"] = raw.view(dtype).view(shape)
    return found | {"across": torch.arange(12).view(3, 4).T, "signs": torch.tensor([-0.0, float("nan"), float("inf")])}


def same_bits(one: Tensor, other: Tensor) -> bool:
    raw = [tensor.contiguous().flatten().view(torch.uint8) for tensor in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*raw)


class Items(torch.utils.data.Dataset[FlatTensors]):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, seed: int) -> FlatTensors:
        return FlatTensors.of(odd_tensors(seed))


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_put_in_comes_out_bit_for_bit(workers: int) -> None:
    loader = DataLoader(Items(), batch_size=None, num_workers=workers)
    for seed, flat in enumerate(loader):
        expected = odd_tensors(seed)
        assert list(flat) == list(expected)
        assert all(same_bits(flat[name], tensor) for name, tensor in expected.items())


def test_every_tensor_is_an_aligned_view_of_the_one_buffer() -> None:
    flat = FlatTensors.of(odd_tensors())
    assert flat.buffer.dtype == torch.uint8
    for tensor in flat.values():
        assert tensor.untyped_storage().data_ptr() == flat.buffer.untyped_storage().data_ptr()
        assert tensor.storage_offset() * tensor.itemsize % 64 == 0
        assert tensor.is_contiguous()


def test_what_is_put_in_is_copied() -> None:
    given = torch.ones(3)
    flat = FlatTensors.of({"one": given, "other": given})
    given.zero_()
    assert flat["one"].tolist() == flat["other"].tolist() == [1, 1, 1]


def test_all_are_moved_at_once() -> None:
    flat = FlatTensors.of(odd_tensors())
    with Moves() as moves:
        moved = flat.to("meta")
    assert moves.count == 1
    assert {tensor.device.type for tensor in moved.values()} == {"meta"}
    assert [(name, t.dtype, t.shape) for name, t in moved.items()] == [(n, t.dtype, t.shape) for n, t in flat.items()]


def test_a_part_is_named_by_what_is_left_of_the_name() -> None:
    flat = FlatTensors.of({"1/a": torch.ones(2), "10/a": torch.zeros(1), "1/b/c": torch.ones(3), "1": torch.ones(4)})
    assert list(flat.part("1/")) == ["a", "b/c"]
    assert flat.part("1/").part("b/")["c"].shape == (3,)
    assert not flat.part("2/")


def test_of_nothing_there_is_nothing() -> None:
    flat = FlatTensors.of({})
    assert not flat.to("meta")
    assert flat.buffer.numel() == 0
