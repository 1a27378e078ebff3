from __future__ import annotations

import pytest
import torch

from rrr_lightning.distillation.logits import RowSchema, as_rows, check_rows, compare_rows
from rrr_lightning.errors import InputError

KEY = "distillation.teachers[2]"


class Output:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


def test_rows_come_out_of_tensors_mappings_and_outputs() -> None:
    rows = torch.zeros(3, 4)
    for output in (rows, {"logits": rows}, Output(rows)):
        assert as_rows(output, None, "the student", "student_logits") is rows


def test_gathered_rows_keep_their_graph() -> None:
    logits = torch.zeros(1, 2, 4, requires_grad=True)
    rows = as_rows(logits, {"labels": torch.tensor([[-100, 3]])}, "the student", "student_logits")
    rows.sum().backward()
    assert logits.grad is not None
    assert logits.grad.sum(2).tolist() == [[0, 4]]


def test_good_rows_pass_even_when_there_are_none() -> None:
    check_rows(torch.randn(3, 4), RowSchema(4), KEY)
    check_rows(torch.randn(0, 4), RowSchema(), KEY)
    check_rows(torch.randn(3, 1), RowSchema(1), KEY)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.zeros(4), r"not rows; found \(4,\)"),
        (torch.zeros(4, 1), "found 1; accepted: 5"),
        (torch.zeros(4, 7), "found 7; accepted: 5"),
        (torch.tensor([[0.0] * 5, [float("nan")] * 5]), "1 of 2 rows"),
        (torch.full((2, 5), float("inf")), "2 of 2 rows"),
        (torch.tensor([[0.0] * 5, [-float("inf")] * 5]), "1 of 2 rows"),
    ],
)
def test_useless_rows_are_refused(rows: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check_rows(rows, RowSchema(5), KEY)
    assert KEY in str(caught.value)


def test_classes_that_a_teacher_rules_out_pass_unless_the_loss_needs_finite_rows() -> None:
    rows = torch.tensor([[0.0, -float("inf"), 1.0], [0.5, 0.0, 1.0]])
    check_rows(rows, RowSchema(3), KEY)
    with pytest.raises(InputError, match="1 of 2 rows of the teacher hold -inf"):
        check_rows(rows, RowSchema(3), KEY, finite=True)
    other = rows + torch.tensor([0.0, 0.0, 0.1])
    same, divergence, count = compare_rows(rows, other).tolist()
    assert (same, count) == (2, 2)
    assert 0 < divergence < 0.01
    assert compare_rows(rows, rows).tolist() == [2, 0, 2]


def test_two_versions_of_rows_are_compared_as_sums() -> None:
    plain = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.5, 0.4, 0.0]])
    other = torch.tensor([[2.0, 1.0, 0.0], [5.0, 6.0, 7.0], [0.4, 0.5, 0.0]])
    same, divergence, count = compare_rows(plain, other).tolist()
    assert (same, count) == (2, 3)
    p, q = plain[2].softmax(0), other[2].softmax(0)
    assert divergence == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-4)
    assert compare_rows(plain[:0], other[:0]).tolist() == [0, 0, 0]
    halves = compare_rows(plain, plain.bfloat16())
    assert halves[1] < 1e-3


def test_scores_are_compared_by_their_squared_difference() -> None:
    plain, other = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.5], [2.0]])
    assert compare_rows(plain, other).tolist() == [2, 0.125, 2]
