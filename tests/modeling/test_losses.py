"""Losses over logits against their definitions in float64, and the stored distributions with a rest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from seekr.errors import InputError
from seekr.modeling.losses import TopLogits, answer_cross_entropy, answer_positions, logit_distillation_loss

LABELS = torch.tensor([[-100, -100, 4, 5, 2], [7, -100, 3, -100, -100], [-100] * 5])
ANSWERS = [(0, 2), (0, 3), (0, 4), (1, 2)]  # the first token of row 1 is predicted by no position


def logits_like(labels: Tensor, vocabulary: int = 11, spread: float = 3.0) -> Tensor:
    return (spread * torch.randn(*labels.shape, vocabulary)).requires_grad_()


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_logit_distillation_by_definition(shift: bool, dtype: torch.dtype) -> None:
    student, teacher = (logits_like(LABELS).detach().to(dtype).requires_grad_() for _ in range(2))
    terms = []
    for row, position in ANSWERS:
        at = position - 1 if shift else position
        target = teacher[row, at].double().softmax(-1).detach()
        terms.append(-(target * student[row, at].double().log_softmax(-1)).sum())
    expected = torch.stack(terms).mean()
    found = logit_distillation_loss(student, teacher.detach(), LABELS, shift=shift)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    one, two = (torch.autograd.grad(loss, student)[0].double() for loss in (found, expected))
    assert (one - two).abs().max() < (1e-2 if dtype == torch.bfloat16 else 1e-5) * two.abs().max()


def test_equal_logits_have_no_gradient() -> None:
    student = logits_like(LABELS)
    (gradient,) = torch.autograd.grad(logit_distillation_loss(student, student.detach(), LABELS), student)
    assert gradient.abs().max() < 1e-7


def test_shapes_and_answers_are_checked() -> None:
    logits = logits_like(LABELS)
    with pytest.raises(InputError, match="must agree in samples, length and vocabulary"):
        logit_distillation_loss(logits, logits[..., :-1], LABELS)
    with pytest.raises(InputError, match="must agree"):
        logit_distillation_loss(logits, logits, LABELS[:, 1:])
    with pytest.raises(InputError, match="no answer token"):
        logit_distillation_loss(logits, logits, LABELS * 0 - 100)


def test_positions_of_answers() -> None:
    for shift, back in ((True, 1), (False, 0)):
        rows, positions = answer_positions(LABELS, shift=shift)
        found = list(zip(rows.tolist(), positions.tolist(), strict=True))
        assert found == [(row, position - back) for row, position in ANSWERS]


def test_cross_entropy_of_weighted_rows() -> None:
    logits, weights = logits_like(LABELS), torch.tensor([1.0, 0.0, 1.0])
    expected = sum(
        functional.cross_entropy(logits[row, position - 1], LABELS[row, position])
        for row, position in ANSWERS
        if weights[row]
    )
    found = answer_cross_entropy(logits[answer_positions(LABELS)], LABELS, weights)
    assert torch.allclose(found, torch.as_tensor(expected))
    (gradient,) = torch.autograd.grad(found, logits)
    assert not gradient[1].any()


def test_no_answers_are_no_loss() -> None:
    logits = logits_like(LABELS)
    labels = LABELS * 0 - 100
    found = answer_cross_entropy(logits[answer_positions(labels)], labels, torch.ones(3))
    found.backward()
    assert found.item() == 0


def with_rest(teacher: Tensor, student: Tensor, k: int) -> Tensor:
    """Cross-entropy over the teacher's k largest entries and one bucket for the rest, in float64."""
    teacher, student = teacher.double().softmax(-1), student.double().softmax(-1)
    top = teacher.topk(k, -1)
    kept = student.gather(-1, top.indices)
    loss = -(top.values * kept.log()).sum(-1)
    if k == teacher.shape[-1]:
        return loss
    rest = torch.ones_like(student).scatter(-1, top.indices, 0)
    return loss - (1 - top.values.sum(-1)) * (student * rest).sum(-1).log()


@pytest.mark.parametrize("k", [1, 4, 18, 19])
def test_stored_distributions_by_definition(k: int) -> None:
    teacher = 2 * torch.randn(5, 19)
    student = (2 * torch.randn(5, 19)).requires_grad_()
    stored = TopLogits.of_logits(teacher, k, torch.float32)
    assert stored.ids.shape == stored.log_probs.shape == (5, k)
    found, expected = stored.cross_entropy(student), with_rest(teacher, student, k)
    assert torch.allclose(found.double(), expected, rtol=1e-5)
    upstream = torch.arange(1.0, 6.0)
    one = torch.autograd.grad(found, student, upstream)[0].double()
    two = torch.autograd.grad(expected, student, upstream.double())[0].double()
    assert (one - two).abs().max() < 1e-5 * two.abs().max()


def test_all_entries_are_the_full_cross_entropy() -> None:
    teacher, student = 2 * torch.randn(2, 4, 19), 2 * torch.randn(2, 4, 19)
    labels = torch.zeros(2, 4, dtype=torch.long)
    _, positions = answer_positions(labels[:1])
    stored = [TopLogits.of_logits(row[positions], 100, torch.float32) for row in teacher]
    found = torch.stack([one.cross_entropy(row[positions]) for one, row in zip(stored, student, strict=True)]).mean()
    assert torch.allclose(found, logit_distillation_loss(student, teacher, labels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_rest_of_almost_nothing(dtype: torch.dtype) -> None:
    """A teacher that is sure, against a student that is sure of the same or of something else."""
    teacher = torch.full((2, 50), -40.0)
    teacher[:, 3] = 40
    student = teacher.clone()
    student[1] = student[1].roll(1)
    student.requires_grad_()
    loss = TopLogits.of_logits(teacher, 4, dtype).cross_entropy(student)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss[0].item() == pytest.approx(0, abs=1e-6)
    assert loss[1].item() == pytest.approx(80, rel=1e-3)
    assert gradient.isfinite().all()
    assert gradient[1, 3].item() == pytest.approx(-1, abs=1e-3)


def test_the_student_that_was_stored_is_at_the_least() -> None:
    """Moving any way from the stored distributions raises the loss."""
    teacher = (2 * torch.randn(6, 40)).requires_grad_()
    stored = TopLogits.of_logits(teacher.detach(), 8, torch.float16)
    loss = stored.cross_entropy(teacher)
    (gradient,) = torch.autograd.grad(loss.sum(), teacher)
    assert gradient.abs().max() < 3e-3
    for _ in range(5):
        assert (stored.cross_entropy(teacher.detach() + torch.randn(6, 40)) > loss).all()


def test_a_teacher_rounded_above_one_has_no_rest() -> None:
    stored = TopLogits(torch.tensor([[0, 1]]), torch.tensor([[0.501, 0.501]]).log())
    loss = stored.cross_entropy(torch.tensor([[0.0, 0.0, -90.0]]))
    assert loss.item() == pytest.approx(2 * 0.501 * 0.6931, rel=1e-3)


def test_no_answer_tokens() -> None:
    stored = TopLogits.of_logits(torch.randn(0, 7), 3, torch.float16)
    assert stored.cross_entropy(torch.randn(0, 7)).shape == (0,)
