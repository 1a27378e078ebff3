"""The scripts on the page about data are run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_scripts_run() -> None:
    names: dict[str, Any] = {}
    exec(block("own"), names)
    assert names["step"] == 30
    assert names["batches"].steps_per_epoch == 10
    exec(block("module"), names)
    data = names["data"]
    data.setup("fit")
    loader = data.train_dataloader()
    numbers, _ = next(iter(loader))
    assert [int(number) for number in numbers] == [i for _, i in data.batches.micro_batch(0, 0)]
    loader.close()
    assert sum(len(numbers) for numbers, _ in data.val_dataloader()) == 1000


def test_the_table_of_batch_sizes_is_right() -> None:
    from rrr_lightning.data.sampling import BatchPlan

    rows = re.findall(
        r"^\| (\d+) \| (\d+) \| (\d+|–) \| (\d+) \| (\d+) \|$", PAGE.read_text(), re.M
    )
    assert len(rows) == 4
    for size, devices, micro, expected, accumulation in rows:
        plan = BatchPlan(int(size), None if micro == "–" else int(micro), int(devices))
        assert plan.micro_batch_size == int(expected)
        assert plan.accumulation == int(accumulation)
