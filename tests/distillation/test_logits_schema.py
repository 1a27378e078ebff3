from __future__ import annotations

import pytest

from rrr_lightning.distillation.logits import RowSchema, check_schema
from rrr_lightning.errors import InputError

KEY = "distillation.teachers[0]"
WORDNET = tuple(f"n{number:08d}" for number in range(1000))


def check(
    student: tuple[str, ...],
    teacher: tuple[str, ...],
    student_ids: dict[str, int] | None = None,
    teacher_ids: dict[str, int] | None = None,
) -> None:
    check_schema(
        RowSchema(len(student), student, special_token_ids=student_ids),
        RowSchema(len(teacher), teacher, special_token_ids=teacher_ids),
        KEY,
    )


def test_what_either_side_does_not_know_is_not_compared() -> None:
    check_schema(RowSchema(), RowSchema(3, ("a", "b", "c")), KEY)
    check_schema(RowSchema(3, ("a", "b", "c")), RowSchema(3), KEY)
    check_schema(RowSchema(special_token_ids={"mask": 4}), RowSchema(), KEY)


def test_another_number_of_columns_is_refused() -> None:
    with pytest.raises(InputError, match=r"teachers\[0\].*found 1000; accepted: 10"):
        check_schema(RowSchema(10), RowSchema(1000), KEY)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (("cat", "dog"), ("cat", "dog")),
        (("great_white_shark", "tench"), ("Great White Shark", "tench, Tinca tinca")),
        (("crane bird", "crane"), ("crane", "crane")),
        (("maillot", "maillot tank suit"), ("maillot", "maillot, tank suit")),
        (("LABEL_0", "LABEL_1"), ("cat", "dog")),
        (("0", "1", "2"), ("class_0", "class_1", "class_2")),
        (WORDNET, tuple(f"thing {chr(65 + i % 26)}" for i in range(1000))),
    ],
)
def test_one_class_may_be_spelled_in_several_ways(
    student: tuple[str, ...], teacher: tuple[str, ...]
) -> None:
    check(student, teacher)
    check(teacher, student)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (("cat", "dog"), ("dog", "cat"), "in another order .* column 0; found 'dog'; .*'cat'"),
        (("a", "cat", "dog"), ("a", "dog", "cat"), "in another order .* column 1"),
        (("cat", "dog"), ("cat", "horse"), "are others .* column 1"),
        (("0", "1", "10"), ("a", "b", "c"), "column 2"),
        (("0", "1", "10", "2"), ("0", "1", "2", "3"), "column 2"),
        (WORDNET, WORDNET[1:] + WORDNET[:1], "in another order"),
        (WORDNET[1:] + WORDNET[:1], tuple(f"thing {i}" for i in range(1000)), "column 0"),
    ],
)
def test_other_labels_and_other_order_are_refused(
    student: tuple[str, ...], teacher: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check(student, teacher)


def test_labels_count_even_where_columns_are_unknown() -> None:
    with pytest.raises(InputError, match="another number of classes"):
        check_schema(RowSchema(labels=("a", "b")), RowSchema(labels=("a",)), KEY)


def test_vocabularies_are_compared_token_by_token() -> None:
    special = {"student_ids": {"mask_token": 2}, "teacher_ids": {"mask_token": 2}}
    check(("a", "A", "[MASK]"), ("a", "A", "[MASK]"), **special)
    with pytest.raises(InputError, match="another vocabulary of the same size: 1 tokens differ"):
        check(("a", "A", "[MASK]"), ("a", "a", "[MASK]"), **special)
    with pytest.raises(InputError, match="another size"):
        check_schema(
            RowSchema(labels=("a", "b"), special_token_ids={"mask_token": 1}),
            RowSchema(labels=("a",)),
            KEY,
        )


def test_other_special_tokens_are_refused() -> None:
    with pytest.raises(InputError, match=r"mask_token has another id .* found 3; accepted: 2"):
        check(
            ("a", "b", "c", "d"),
            ("a", "b", "c", "d"),
            student_ids={"mask_token": 2, "pad_token": 0},
            teacher_ids={"mask_token": 3, "cls_token": 1},
        )


def test_texts_in_another_vocabulary_are_refused() -> None:
    ours, same, theirs = (RowSchema(2, input_vocabulary=each) for each in ("a", "a", "b"))
    check_schema(ours, same, KEY)
    check_schema(ours, RowSchema(2), KEY)
    with pytest.raises(InputError, match=r"teachers\[0\]: the teacher reads another vocabulary"):
        check_schema(ours, theirs, KEY)
