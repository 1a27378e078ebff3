"""The page on stored targets: its code runs, its options exist, and its sizes are those on disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning import commands
from rrr_lightning.distillation.sparse_targets import Encoding
from rrr_lightning.targets.plan import CLASSES_OF_IMAGES, CLASSES_OF_TOKENS, STEPS_PER_SHARD

PAGE = (Path(__file__).parents[2] / "docs" / "targets.md").read_text()
SIZES = re.findall(r"^\| `(\w+)` \| (\d) ([KC]) \+ (\d) \| (\d) [KC] \+ (\d) \|$", PAGE, re.M)


def test_its_code_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["distillation"].targets == "targets/digits"


def test_its_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        commands._targets(["--help"])
    printed = capsys.readouterr().out
    for option in re.findall(r"^\| `(--\w+)", PAGE, re.M):
        assert option in printed
    assert f"{CLASSES_OF_IMAGES} by default, {CLASSES_OF_TOKENS} of a masked token" in PAGE
    assert f"of at most {STEPS_PER_SHARD}\nsteps" in PAGE


@pytest.mark.parametrize("row", SIZES, ids=lambda row: row[0])
def test_its_sizes_are_those_on_disk(row: tuple[str, ...]) -> None:
    kind, times, letter, plus, times_above, plus_above = row
    for columns, factor, rest in ((1000, times, plus), (100_000, times_above, plus_above)):
        encoding = Encoding(kind, columns, 7, 1.0)  # type: ignore[arg-type]
        count = 7 if letter == "K" else columns
        assert encoding.bytes_per_row == int(factor) * count + int(rest)


def test_all_kinds_have_a_size() -> None:
    assert [row[0] for row in SIZES] == ["top_k", "sampled", "dense"]


def test_its_examples_follow_from_the_formula() -> None:
    images = 2048 * Encoding("top_k", 1000, 10, 1.0).bytes_per_row
    tokens = 4096 * (19 * Encoding("sampled", 30522, 12, 1.0).bytes_per_row + 2)
    assert f"takes {images / 1e3:.0f} kB" in PAGE
    assert f"takes {tokens / 1e6:.1f} MB" in PAGE
    assert f"{56250 // 2 * images / 1e9:.1f} GB" in PAGE
    assert f"{70000 * 0.3 * tokens / 1e9:.0f} GB" in PAGE
