from __future__ import annotations

import doctest
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rrr_lightning.distillation import losses as module
from rrr_lightning.distillation.losses import (
    KLDivergence,
    LogitMSE,
    SoftCrossEntropy,
    kl_divergence,
    logit_mse,
    mean_of_logits,
    mean_of_probabilities,
    soft_cross_entropy,
)
from rrr_lightning.errors import InputError
from rrr_lightning.keyed_rng import keyed_generator

FLOAT32_TOLERANCE = 1e-5  # relative, of one float32 reduction over some tens of numbers
DIFFERENCE_TOLERANCE = 2e-3  # absolute, central differences of a float32 loss at step 1e-2

LOSSES = [
    KLDivergence(temperature=4.0),
    KLDivergence(temperature=2.0, direction="reverse"),
    SoftCrossEntropy(temperature=3.0),
    LogitMSE(),
    LogitMSE(center=True, reduction="sum"),
]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=repr)


def logits(*shape: int, key: str = "student") -> Tensor:
    return torch.randn(shape, generator=keyed_generator("test_losses", key))


def float64_kl(p_logits: Tensor, q_logits: Tensor, temperature: float) -> float:
    """KL(p || q) at T, summed by hand in Python: independent of torch's own loss functions."""
    total = 0.0
    for p_row, q_row in zip(p_logits.tolist(), q_logits.tolist(), strict=True):
        p = [math.exp(z / temperature) for z in p_row]
        q = [math.exp(z / temperature) for z in q_row]
        total += sum(
            a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True)
        )
    return total / len(p_logits)


def test_forward_kl_of_two_classes_has_its_closed_form() -> None:
    # Teacher (3/4, 1/4), student (1/2, 1/2): KL(teacher || student) = 3/4 ln 3/2 + 1/4 ln 1/2.
    teacher, student = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    reverse = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert kl_divergence(student, teacher).item() == pytest.approx(forward, rel=FLOAT32_TOLERANCE)
    assert kl_divergence(student, teacher, direction="reverse").item() == pytest.approx(
        reverse, rel=FLOAT32_TOLERANCE
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_kl_equals_the_sum_by_hand_times_t_squared(temperature: float, direction: str) -> None:
    student, teacher = logits(6, 5), logits(6, 5, key="teacher")
    pair = (teacher, student) if direction == "forward" else (student, teacher)
    expected = temperature**2 * float64_kl(*pair, temperature)
    found = KLDivergence(temperature, direction)(student, teacher)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(expected, rel=FLOAT32_TOLERANCE)


def test_reverse_kl_is_forward_kl_with_swapped_arguments() -> None:
    student, teacher = logits(6, 5), logits(6, 5, key="teacher")
    assert torch.equal(
        kl_divergence(student, teacher, 4.0, "reverse"), kl_divergence(teacher, student, 4.0)
    )


def test_soft_cross_entropy_is_kl_plus_entropy() -> None:
    student, teacher = logits(6, 5), logits(6, 5, key="teacher")
    p = (teacher / 3).softmax(dim=1)
    entropy = -(p * p.log()).sum(dim=1).mean()
    expected = kl_divergence(student, teacher, 3.0) + 9 * entropy
    found = soft_cross_entropy(student, teacher, 3.0)
    torch.testing.assert_close(found, expected, rtol=FLOAT32_TOLERANCE, atol=0.0)


def test_soft_cross_entropy_of_a_certain_teacher_is_cross_entropy() -> None:
    student, labels = logits(4, 3), torch.tensor([0, 2, 1, 1])
    certain = 1e4 * nn.functional.one_hot(labels, 3).float()
    expected = nn.functional.cross_entropy(student, labels)
    torch.testing.assert_close(soft_cross_entropy(student, certain), expected)


def test_logit_mse_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[2.0, 4.0], [0, 0]])
    assert logit_mse(student, teacher).item() == (1 + 4) / 4
    assert logit_mse(student, teacher, reduction="sum").item() == (1 + 4) / 2
    assert logit_mse(student, teacher, center=True).item() == (0.25 + 0.25) / 4
    assert logit_mse(student + 7, student, center=True).item() == pytest.approx(0.0, abs=1e-12)


@every_loss
def test_gradient_equals_finite_differences(loss: nn.Module) -> None:
    student, teacher = logits(3, 4).requires_grad_(), logits(3, 4, key="teacher")
    (gradient,) = torch.autograd.grad(loss(student, teacher), student)
    step = 1e-2
    for row in range(3):
        for column in range(4):
            shift = torch.zeros(3, 4)
            shift[row, column] = step
            with torch.no_grad():
                difference = loss(student + shift, teacher) - loss(student - shift, teacher)
            expected = (difference / (2 * step)).item()
            assert gradient[row, column].item() == pytest.approx(expected, abs=DIFFERENCE_TOLERANCE)


def test_gradient_keeps_its_size_while_the_temperature_grows() -> None:
    # For T towards infinity the gradient of T² KL is that of centred logit matching, divided by C.
    student, teacher = logits(8, 5).requires_grad_(), logits(8, 5, key="teacher")
    (hot,) = torch.autograd.grad(kl_divergence(student, teacher, 100.0), student)
    (limit,) = torch.autograd.grad(logit_mse(student, teacher, center=True) / 2, student)
    torch.testing.assert_close(hot, limit, rtol=0.05, atol=1e-3)


@every_loss
def test_low_precision_and_autocast_give_float32(loss: nn.Module) -> None:
    student, teacher = logits(6, 5).bfloat16(), logits(6, 5, key="teacher").bfloat16()
    expected = loss(student.float(), teacher.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(student, teacher)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@every_loss
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((4, 1), (4, 10)),
        ((4, 10), (4, 1)),
        ((1, 10), (4, 10)),
        ((4, 10), (3, 10)),
        ((2, 3, 10), (2, 3, 10)),
        ((10,), (10,)),
        ((4, 10), (10,)),
    ],
    ids=str,
)
def test_nothing_is_broadcast(
    loss: nn.Module, student: tuple[int, ...], teacher: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="do not match") as caught:
        loss(torch.zeros(student), torch.zeros(teacher))
    assert str(list(student)) in str(caught.value)
    assert str(list(teacher)) in str(caught.value)


def test_integer_rows_are_refused() -> None:
    with pytest.raises(InputError, match="floating-point"):
        logit_mse(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64))


def test_one_column_is_not_centred_away() -> None:
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [0.0]])
    assert logit_mse(student, teacher) == 2.5
    with pytest.raises(InputError, match=r"loss.center: .*nothing to distil; found True"):
        logit_mse(student, teacher, center=True)


@pytest.mark.parametrize("loss", [KLDivergence(), SoftCrossEntropy()], ids=repr)
def test_a_softmax_over_one_class_is_refused(loss: nn.Module) -> None:
    with pytest.raises(InputError, match="one class"):
        loss(torch.zeros(4, 1), torch.zeros(4, 1))
    assert logit_mse(torch.zeros(4, 1), torch.ones(4, 1)).item() == 1.0


@every_loss
def test_no_rows_give_zero_with_a_gradient_graph(loss: nn.Module) -> None:
    student = torch.zeros(0, 5, requires_grad=True)
    found = loss(student, torch.zeros(0, 5))
    found.backward()
    assert found.item() == 0.0
    assert student.grad is not None
    assert student.grad.shape == (0, 5)


@every_loss
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_not_hidden(loss: nn.Module, bad: float) -> None:
    student, teacher = logits(4, 5), logits(4, 5, key="teacher")
    teacher[2, 3] = bad
    assert not loss(student, teacher).isfinite()


@every_loss
def test_the_mean_over_rows_does_not_depend_on_their_number(loss: nn.Module) -> None:
    student, teacher = logits(4, 5), logits(4, 5, key="teacher")
    twice = loss(torch.cat([student, student]), torch.cat([teacher, teacher]))
    torch.testing.assert_close(twice, loss(student, teacher), rtol=FLOAT32_TOLERANCE, atol=0.0)


@every_loss
def test_a_perfect_student_has_no_gradient(loss: nn.Module) -> None:
    teacher = logits(4, 5)
    student = teacher.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(student, teacher), student)
    torch.testing.assert_close(gradient, torch.zeros(4, 5), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_combined_rows_hold_the_mean_of_probabilities(temperature: float) -> None:
    rows = [5 * logits(6, 4, key=f"teacher {i}") for i in range(3)]
    expected = torch.stack([(z / temperature).softmax(dim=1) for z in rows]).mean(dim=0)
    combined = KLDivergence(temperature).combine(rows)
    torch.testing.assert_close((combined / temperature).softmax(dim=1), expected)
    # The pseudo-logits are normalised: log-probabilities times T.
    assert combined.div(temperature).logsumexp(dim=1).abs().max().item() < FLOAT32_TOLERANCE


def test_mean_of_probabilities_is_not_mean_of_logits() -> None:
    sure, unsure = torch.tensor([[10.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    by_probability = mean_of_probabilities([sure, unsure]).softmax(dim=1)
    by_logit = mean_of_logits([sure, unsure]).softmax(dim=1)
    assert by_probability[0, 0].item() == pytest.approx(0.634, abs=1e-3)
    assert by_logit[0, 0].item() == pytest.approx(0.989, abs=1e-3)


def test_logit_mse_combines_logits() -> None:
    rows = [logits(6, 4, key=f"teacher {i}") for i in range(3)]
    assert torch.equal(LogitMSE().combine(rows), torch.stack(rows).mean(dim=0))


@every_loss
def test_one_teacher_combines_to_itself(loss: nn.Module) -> None:
    student, teacher = logits(6, 4), logits(6, 4, key="teacher")
    assert torch.equal(loss(student, loss.combine([teacher])), loss(student, teacher))


@every_loss
def test_combining_refuses_rows_of_different_shapes_and_no_rows(loss: nn.Module) -> None:
    with pytest.raises(InputError, match="do not match"):
        loss.combine([torch.zeros(4, 3), torch.zeros(4, 1)])
    with pytest.raises(InputError, match="do not match"):
        loss.combine([])


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan, True, "4"])
@pytest.mark.parametrize("kind", [KLDivergence, SoftCrossEntropy])
def test_bad_temperatures_are_refused(kind: type[nn.Module], temperature: float) -> None:
    with pytest.raises(InputError, match=r"^distillation\.loss\.temperature: .*finite number"):
        kind(temperature=temperature)


def test_unknown_words_are_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'reverse'"):
        KLDivergence(direction="revers")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^distillation\.loss\.reduction: .*accepted: mean, sum"):
        LogitMSE(reduction="none")  # type: ignore[arg-type]


@every_loss
def test_losses_carry_no_state(loss: nn.Module) -> None:
    assert not loss.state_dict()
    assert not list(loss.parameters())


def test_examples_in_the_documentation_hold() -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("loss", [KLDivergence(), KLDivergence(1.0), SoftCrossEntropy()])
def test_a_class_that_the_teacher_rules_out_costs_nothing_of_its_own(loss: Any) -> None:
    student = torch.tensor([[0.3, -1.0, 0.5], [1.0, 0.0, 2.0]], requires_grad=True)
    teacher = torch.tensor([[0.1, -math.inf, 1.0], [-math.inf, 0.5, -math.inf]])
    value = loss(student, teacher)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    torch.testing.assert_close(value, loss(student, teacher.clamp(min=-1e4)))


@pytest.mark.parametrize("loss", [KLDivergence(), KLDivergence(1e3), SoftCrossEntropy()])
def test_a_class_that_student_and_teacher_rule_out_costs_nothing(loss: Any) -> None:
    student, teacher = logits(3, 4), logits(3, 4, key="teacher")
    expected = loss(student[:, 1:], teacher[:, 1:])
    student[:, 0] = teacher[:, 0] = -math.inf
    student.requires_grad_()
    value = loss(student, teacher)
    value.backward()
    torch.testing.assert_close(value, expected)
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_one_of_several_teachers_may_rule_a_class_out() -> None:
    first, second = torch.tensor([[0.0, -math.inf, 1.0]]), torch.tensor([[1.0, 0.5, -math.inf]])
    found = mean_of_probabilities([first, second], 2.0).div(2).softmax(dim=1)
    torch.testing.assert_close(found, ((first / 2).softmax(1) + (second / 2).softmax(1)) / 2)
    both = mean_of_probabilities([first, first], 2.0).div(2).softmax(dim=1)
    torch.testing.assert_close(both, (first / 2).softmax(1))


def exact_kl(p: Tensor, q: Tensor, temperature: float) -> Tensor:
    """T² times KL(p || q) in float64, by the second and third moments of small differences."""
    p, gap = p.double() / temperature, (q.double() - p.double()) / temperature
    weights = p.softmax(dim=1)
    u = gap - (weights * gap).sum(dim=1, keepdim=True)
    moments = u**2 / 2 + u**3 / 6 + u**4 / 24
    return torch.log1p((weights * moments).sum(dim=1)).mean() * temperature**2


@pytest.mark.parametrize("temperature", [1e3, 1e4, 1e6, 1e9])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_kl_is_exact_at_temperatures_that_leave_little_to_tell(
    temperature: float, direction: Any
) -> None:
    student, teacher = 3 * logits(8, 50), 3 * logits(8, 50, key="teacher")
    student.requires_grad_()
    exact = student.detach().double().requires_grad_()
    pair = (teacher, exact) if direction == "forward" else (exact, teacher)
    expected = exact_kl(*pair, temperature)
    found = kl_divergence(student, teacher, temperature, direction)
    assert found.item() == pytest.approx(expected.item(), rel=FLOAT32_TOLERANCE)
    found.backward()
    expected.backward()
    assert exact.grad is not None
    torch.testing.assert_close(student.grad, exact.grad.float(), rtol=1e-4, atol=1e-6)
    same = kl_divergence(student, student.detach() + 1e-4, temperature, direction)
    assert 0 <= same.item() < 1e-6


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_kl_of_hot_softmaxes_goes_on_smoothly(direction: Any) -> None:
    # Across the temperature where the computation changes, and for logits that stay far apart.
    for scale in (1.0, 300.0, 3e4):
        student, teacher = scale * logits(8, 50), scale * logits(8, 50, key="teacher")
        below, above = (kl_divergence(student, teacher, t, direction) for t in (99.99, 100.0))
        torch.testing.assert_close(below, above, rtol=1e-3, atol=0.0)
