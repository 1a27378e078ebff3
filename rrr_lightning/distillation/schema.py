"""What the columns of a network's rows mean, and whether two networks mean the same by them.

A teacher helps only if its column 7 is the student's column 7. Class names are compared in order,
forgiving spelling (case, underscores, further synonyms after a comma) but never order; vocabularies
are compared token by token. What either side does not know is not compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rrr_lightning.distillation.normalization import Normalization
from rrr_lightning.errors import InputError

_WORDNET = re.compile(r"n\d{8}")
_NUMBER = re.compile(r"(?:label_|class_)?(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class RowSchema:
    """What is known of a network's rows and of its input; None stands for unknown.

    Args:
        columns: The number of classes, or the size of the vocabulary.
        labels: Class names, or the tokens of the vocabulary, in the order of the columns.
        normalization: The image statistics that the network was trained with.
        special_token_ids: For text, the ids of the special tokens by name, such as `mask_token`.
        input_vocabulary: Where columns are classes of texts, a fingerprint of the tokens that the
            ids in a batch stand for.
    """

    columns: int | None = None
    labels: tuple[str, ...] | None = None
    normalization: Normalization | None = None
    special_token_ids: Mapping[str, int] | None = None
    input_vocabulary: str | None = None


def check_schema(student: RowSchema, teacher: RowSchema, key: str) -> None:
    """Refuses a teacher whose columns do not mean what the student's columns mean."""
    if None not in (student.columns, teacher.columns) and student.columns != teacher.columns:
        raise InputError(
            "the teacher has another number of columns (classes or vocabulary) than the student",
            key=key,
            found=teacher.columns,
            accepted=str(student.columns),
        )
    if None not in (student.input_vocabulary, teacher.input_vocabulary) and (
        student.input_vocabulary != teacher.input_vocabulary
    ):
        raise InputError(
            "the teacher reads another vocabulary than the student",
            key=key,
            accepted="a teacher that was trained with the student's tokenizer",
        )
    ours, theirs = dict(student.special_token_ids or {}), dict(teacher.special_token_ids or {})
    for name in sorted(ours.keys() & theirs.keys()):
        if ours[name] != theirs[name]:
            raise InputError(
                f"the teacher's {name} has another id than the student's",
                key=key,
                found=theirs[name],
                accepted=str(ours[name]),
            )
    if student.labels is None or teacher.labels is None:
        return
    if ours or theirs:
        _check_tokens(student.labels, teacher.labels, key)
    else:
        _check_class_names(student.labels, teacher.labels, key)


def columns_in_order(student: RowSchema, teacher: RowSchema, key: str) -> tuple[int, ...]:
    """Returns the teacher's columns in the order of the student's classes.

    >>> columns_in_order(RowSchema(labels=("cat", "dog")), RowSchema(labels=("dog", "cat")), "")
    (1, 0)
    """
    if student.labels is None or teacher.labels is None or teacher.special_token_ids:
        raise InputError(
            "classes can be reordered where student and teacher name them",
            key=key,
            found="student: {}, teacher: {}".format(
                *("no names" if side.labels is None else "names" for side in (student, teacher))
            ),
            accepted="class_names in the data or the model, and in the teacher's mapping",
        )
    found: list[int] = []
    for ours in student.labels:
        same = [n for n, theirs in enumerate(teacher.labels) if ours == theirs] or [
            n for n, theirs in enumerate(teacher.labels) if _same_class(ours, theirs, None)
        ]
        if len(same) != 1 or same[0] in found or len(student.labels) != len(teacher.labels):
            raise InputError(
                "the teacher's classes are not the student's in another order",
                key=key,
                found=f"{len(teacher.labels)} classes, {len(same)} of which are {ours!r}",
                accepted=f"the {len(student.labels)} classes of the student",
            )
        found += same
    return tuple(found)


def _check_tokens(student: tuple[str, ...], teacher: tuple[str, ...], key: str) -> None:
    if student == teacher:
        return
    if len(student) != len(teacher):
        raise InputError(
            "the teacher's vocabulary has another size than the student's",
            key=key,
            found=len(teacher),
            accepted=str(len(student)),
        )
    differ = [i for i, pair in enumerate(zip(student, teacher, strict=True)) if pair[0] != pair[1]]
    raise InputError(
        f"the teacher has another vocabulary of the same size: {len(differ)} tokens differ, "
        f"the first with id {differ[0]}",
        key=key,
        found=teacher[differ[0]],
        accepted=repr(student[differ[0]]),
    )


def _check_class_names(student: tuple[str, ...], teacher: tuple[str, ...], key: str) -> None:
    if len(student) != len(teacher):
        raise InputError(
            "the teacher names another number of classes than the student",
            key=key,
            found=len(teacher),
            accepted=str(len(student)),
        )
    wordnet = [all(_WORDNET.fullmatch(name) for name in names) for names in (student, teacher)]
    if wordnet[0] != wordnet[1] and len(student) == 1000:
        # ImageNet's own order is that of its sorted WordNet ids, whatever the names of the others.
        ids = student if wordnet[0] else teacher
        if list(ids) == sorted(ids):
            return
    for column, (ours, theirs) in enumerate(zip(student, teacher, strict=True)):
        if not _same_class(ours, theirs, column):
            elsewhere = any(_same_class(ours, name, None) for name in teacher)
            raise InputError(
                f"the teacher's class names are {'in another order' if elsewhere else 'others'} "
                f"than the student's, first in column {column}",
                key=key,
                found=theirs,
                accepted=repr(ours),
            )


def _same_class(ours: str, theirs: str, column: int | None) -> bool:
    """Whether two names mean one class; a bare number means only "the class of this column"."""
    numbers = [_NUMBER.fullmatch(name.strip()) for name in (ours, theirs)]
    if any(numbers):
        if all(numbers) or column is None:
            values = [int(number.group(1)) for number in numbers if number]
            return len(values) == 2 and values[0] == values[1]
        return all(int(number.group(1)) == column for number in numbers if number)
    first, second = _synonyms(ours), _synonyms(theirs)
    return (
        not first.isdisjoint(second)
        or any(a.startswith(f"{b} ") for a in first for b in second)
        or any(b.startswith(f"{a} ") for a in first for b in second)
    )


def _synonyms(name: str) -> set[str]:
    words = re.sub(r"[_\-\s]+", " ", name.casefold())
    return {part.strip() for part in words.split(",")} | {" ".join(words.replace(",", " ").split())}
