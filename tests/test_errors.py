from __future__ import annotations

import doctest

import pytest

from rrr_lightning import errors
from rrr_lightning.errors import InputError, check, did_you_mean, refuse


def test_a_message_says_where_what_found_and_accepted() -> None:
    error = InputError("out of range", key="schedule.until", found=1.5, accepted="(0, 1]")
    assert str(error) == "schedule.until: out of range; found 1.5; accepted: (0, 1]"


def test_parts_that_are_not_given_are_left_out() -> None:
    assert str(InputError("no teachers")) == "no teachers"
    assert str(InputError("empty", key="teachers", found=[])) == "teachers: empty; found []"


def test_a_message_is_one_line() -> None:
    error = InputError("missing keys:\n  a\n  b", accepted="the keys\tof the network")
    assert str(error) == "missing keys: a b; accepted: the keys of the network"


def test_an_input_error_is_a_value_error() -> None:
    assert issubclass(InputError, ValueError)


def test_the_nearest_name_is_offered_and_only_a_near_one() -> None:
    assert did_you_mean("temprature", ["temperature", "weight"]) == "; did you mean 'temperature'?"
    assert did_you_mean("xyz", ["temperature", "weight"]) == ""
    assert did_you_mean("xyz", []) == ""


def test_a_check_refuses_what_does_not_hold() -> None:
    check(True, "until", 0.5, "a number in (0, 1]")
    with pytest.raises(InputError, match=r"^until: out of range; found 2; accepted: \(0, 1\]$"):
        check(False, "until", 2, "(0, 1]")
    with pytest.raises(InputError, match=r"^arm: unknown; found 'x'$"):
        refuse("arm", "x", None, "unknown")


def test_examples_in_the_documentation_hold() -> None:
    found = doctest.testmod(errors)
    assert found.attempted > 0
    assert found.failed == 0
