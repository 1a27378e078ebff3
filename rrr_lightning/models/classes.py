"""Classes: how many, which, in what order, and whether the data means the same by them."""

from __future__ import annotations

from collections.abc import Sequence

from rrr_lightning.errors import InputError, check

MOST_CLASSES = 10_000_000


def check_classes(num_classes: int, class_names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Returns the class names as a tuple."""
    good = type(num_classes) is int and 2 <= num_classes <= MOST_CLASSES
    check(good, "num_classes", num_classes, f"2 or more, at most {MOST_CLASSES}")
    if class_names is not None and len(class_names) != num_classes:
        raise InputError(
            "need one name per class",
            key="class_names",
            found=f"{len(class_names)} names",
            accepted=f"{num_classes} names",
        )
    if class_names is None:
        return None
    twice = sorted({str(name) for name in class_names if list(class_names).count(name) > 1})
    check(not twice, "class_names", twice, "another name for each class", "are equal")
    return tuple(class_names)


def agree_on_classes(
    num_classes: int, class_names: tuple[str, ...] | None, data: object
) -> tuple[str, ...] | None:
    """Returns the class names, from `data` where the model has none."""
    classes = getattr(data, "num_classes", None)
    if isinstance(classes, int) and classes != num_classes:
        raise InputError(
            "differs from the data's number of classes",
            key="num_classes",
            found=num_classes,
            accepted=str(classes),
        )
    names = getattr(data, "class_names", None)
    if names is None:
        return class_names
    if class_names is not None and class_names != tuple(names):
        raise InputError(
            "differ from the data's class names, or are in another order",
            key="class_names",
            found=class_names,
            accepted=str(tuple(names)),
        )
    return check_classes(num_classes, names)
