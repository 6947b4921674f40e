"""What is kept, measured and compared has the same bits whatever precision the forwards around it run in."""

from __future__ import annotations

from dataclasses import replace

import attention_definitions as by_definition
import pytest
import torch
from precisions import AROUND, AUTOCAST, assert_same_bits
from torch import Tensor

from seekr.attention import stored
from seekr.attention.change import measure_change_and_drift
from seekr.attention.distillation import attention_distillation_loss
from seekr.attention.divergence import SampleTeacher, attention_divergence
from seekr.attention.heads import head_importance
from seekr.attention.rows import QueryKeyRows
from seekr.attention.sensitivity import measure_sensitivity, sample_losses
from seekr.attention.stored import FORMS, StoredForm, automatic_form, decode, encode
from seekr.attention.support import check_attention
from seekr.attention.tap import AttentionCall, Geometry
from seekr.modeling.losses import TopLogits, answer_cross_entropy, logit_distillation_loss
from seekr.modeling.precision import full_precision, no_autocast

LENGTH, SPAN, HEADS = 90, (3, 90), torch.tensor([0, 2, 3])
GEOMETRIES = {
    "plain": (Geometry(0.35), None),
    "window": (Geometry(0.35, 20), None),
    "softcap and sink": (Geometry(0.35, None, 3.0), torch.tensor([0.5, -1.0, 0.0, 2.0])),
}


def attention_call(dtype: torch.dtype = torch.float32, geometry: str = "plain") -> AttentionCall:
    query, key = torch.randn(1, 4, LENGTH, 8).to(dtype), torch.randn(1, 2, LENGTH, 8).to(dtype)
    kind, sink = GEOMETRIES[geometry]
    sink = None if sink is None else sink.to(dtype)
    return AttentionCall(query.requires_grad_(), key.requires_grad_(), key, query, kind, sink, None)


def rows_of(call: AttentionCall) -> QueryKeyRows:
    return QueryKeyRows.of_call(call, 0, SPAN, HEADS)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("form", FORMS)
def test_attention_is_kept_read_and_compared_in_the_same_bits(
    form: StoredForm, geometry: str, dtype: torch.dtype, around: str
) -> None:
    call = attention_call(dtype, geometry)
    teacher = rows_of(replace(call, query=call.query + 0.5 * torch.randn_like(call.query)))
    everything = slice(0, SPAN[1] - SPAN[0])

    def numbers() -> list[Tensor]:
        tensors = encode(teacher, form)
        read = decode(tensors, form, teacher.positions, teacher.geometry, 8)
        target = SampleTeacher(0, SPAN, HEADS, None, read)
        value = attention_divergence(call, [target])
        gradients = torch.autograd.grad(value.sum(), [call.query, call.key])
        student = rows_of(call).log_probs(everything, everything)
        return [*tensors.values(), read.log_probs(everything, everything, student), value.detach(), *gradients]

    assert_same_bits(numbers, around)


@pytest.mark.parametrize("around", AROUND)
def test_the_form_is_chosen_by_the_same_bits(around: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the largest entries hold the very share that is asked for, the last bit decides."""
    monkeypatch.setattr(stored, "TRIFLE", 0)
    monkeypatch.setattr(stored, "compact_bytes", lambda *_: {"top": 1, "rows": 2, "query_key": 3})
    for _ in range(8):
        call = attention_call()
        teacher = rows_of(replace(call, query=4 * call.query))
        monkeypatch.setattr(stored, "_SQUARES", stored.kept_squares(teacher))
        assert automatic_form(teacher) == "top"
        with AROUND[around]():
            assert automatic_form(teacher) == "top"


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_losses_and_what_is_kept_of_logits_have_the_same_bits(dtype: torch.dtype, around: str) -> None:
    labels = torch.tensor([[-100, 3, 4, 5], [-100, -100, 7, 8]])
    student, teacher = (3 * torch.randn(2, 4, 40).to(dtype) for _ in range(2))
    student.requires_grad_()
    answers = labels[:, 1:] != -100

    def numbers() -> list[Tensor]:
        chosen = student[:, :-1][answers]
        kept = TopLogits.of_logits(teacher[:, :-1][answers], 6, torch.float16)
        losses = [
            logit_distillation_loss(student, teacher, labels),
            answer_cross_entropy(chosen, labels, torch.tensor([0.5, 2.0])),
            sample_losses(chosen, labels).sum(),
            kept.cross_entropy(chosen).sum(),
            kept.divergence(chosen).sum(),
        ]
        gradients = [torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in losses]
        return [kept.ids, kept.log_probs, *(loss.detach() for loss in losses), *gradients]

    assert_same_bits(numbers, around)


@pytest.mark.parametrize("around", AROUND)
def test_measures_of_the_same_forward_have_the_same_bits(around: str) -> None:
    """The models' forwards are kept out of what is around; all that is made of them is in it."""
    model = by_definition.tiny_llama()
    other = by_definition.moved(model)
    for one in (model, other):
        one.forward = full_precision()(one.forward)  # type: ignore[method-assign]
    batch = by_definition.make_batch((41, 17), side="left")
    heads = {0: torch.tensor([0, 3]), 2: torch.tensor([1])}

    def numbers() -> list[Tensor]:
        found = list(measure_change_and_drift(other, model, batch))
        loss = attention_distillation_loss(model, other, batch, heads)
        with full_precision():
            found += [loss.detach(), *by_definition.gradients(model, loss).values()]
        if around in AUTOCAST:  # else the model's backward is in the precision that its user has set
            found += [measure_sensitivity(model, batch), measure_sensitivity(model, batch, entries="all")]
        return found

    assert_same_bits(numbers, around)
    with AROUND[around]():
        check_attention(model)


@pytest.mark.parametrize("around", AROUND)
def test_importance_has_the_same_bits(around: str) -> None:
    sensitivities, changes = list(torch.rand(3, 5, 4)), list(torch.rand(3, 5, 4))
    assert_same_bits(lambda: [head_importance(sensitivities, changes)], around)


def test_inside_autocast_is_off_and_outside_it_is_as_before() -> None:
    half = torch.randn(2, 2)
    for off in (no_autocast, full_precision):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with off():
                assert (half @ half).dtype == torch.float32
            assert (half @ half).dtype == torch.bfloat16
            with pytest.raises(RuntimeError, match="inside"), off():
                raise RuntimeError("inside")
            assert (half @ half).dtype == torch.bfloat16
            assert off()(lambda: half @ half)().dtype == torch.float32
        with off():
            assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("name", ["tf32", "bf16"])
@pytest.mark.parametrize("fails", [False, True])
def test_precision_settings_are_left_as_they_were(name: str, fails: bool) -> None:
    backend = torch.backends.cuda.matmul if name == "tf32" else torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = backend.fp32_precision
    try:
        backend.fp32_precision = name
        with pytest.raises(RuntimeError) if fails else full_precision(), full_precision():
            assert backend.fp32_precision == "ieee"
            if fails:
                raise RuntimeError
        assert backend.fp32_precision == name
    finally:
        backend.fp32_precision = before
