from __future__ import annotations

from types import SimpleNamespace

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.models.student import agree_on_classes, check_classes


def test_names_become_a_tuple() -> None:
    assert check_classes(2, ["cat", "dog"]) == ("cat", "dog")
    assert check_classes(2, None) is None


@pytest.mark.parametrize("number", [1, 0, -3])
def test_fewer_than_two_classes_are_refused(number: int) -> None:
    with pytest.raises(InputError, match=f"num_classes: out of range; found {number}; .*2 or more"):
        check_classes(number, None)


def test_a_name_per_class_is_needed() -> None:
    with pytest.raises(InputError, match=r"class_names: need one name .* '1 names'; .*: 3 names"):
        check_classes(3, ["cat"])


def test_the_data_gives_names_that_the_model_lacks() -> None:
    data = SimpleNamespace(num_classes=2, class_names=["cat", "dog"])
    assert agree_on_classes(2, None, data) == ("cat", "dog")


def test_data_that_says_nothing_is_not_compared() -> None:
    assert agree_on_classes(2, ("cat", "dog"), None) == ("cat", "dog")
    assert agree_on_classes(2, None, SimpleNamespace(num_classes={"coarse": 3})) is None


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"num_classes: differs .*; found 1000; accepted: 10"):
        agree_on_classes(1000, None, SimpleNamespace(num_classes=10))


def test_another_order_is_refused() -> None:
    data = SimpleNamespace(class_names=["dog", "cat"])
    with pytest.raises(InputError, match=r"class_names: .*another order; found .'cat', 'dog'"):
        agree_on_classes(2, ("cat", "dog"), data)
