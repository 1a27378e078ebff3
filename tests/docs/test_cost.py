"""The page on cost names the keys, phases and options that there are, with their defaults."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from rrr_lightning.callbacks.cost_ledger import LOGGED_KEYS, CostLedger
from rrr_lightning.callbacks.ledger import PHASES, new_ledger

PAGE = (Path(__file__).parents[2] / "docs" / "cost.md").read_text()
NAMED = set(re.findall(r"`([^`\s]+)`", PAGE))


def test_all_keys_and_phases_are_explained() -> None:
    keys = new_ledger().keys() - {"version"}
    assert keys | set(PHASES) | set(LOGGED_KEYS) <= NAMED


def test_options_and_defaults_are_those_of_the_callback() -> None:
    options = dict(re.findall(r"^\| `cost\.(\w+): (\S+)` \|", PAGE, re.MULTILINE))
    parameters = inspect.signature(CostLedger).parameters
    assert options == {
        name: "null" if parameter.default is None else str(parameter.default)
        for name, parameter in parameters.items()
    }
