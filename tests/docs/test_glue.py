"""The page about GLUE: its script is run as it stands, and its table says what the code says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from rrr_lightning import commands
from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.glue.protocol import PROTOCOLS, find_protocol
from rrr_lightning.models.text_classifier import TextClassifier
from tests.data.glue_files import write_tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "glue.md"


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
def test_the_script_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    write_tokenizer(tmp_path / "tokenizer")
    found = re.search(r"<!-- own -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    names: dict[str, object] = {}
    exec(found.group(1), names)
    assert names["trainer"].callback_metrics["val/accuracy"] > 0.9  # type: ignore[attr-defined]
    assert TextClassifier.load_from_checkpoint("dogs.ckpt").num_classes == 2


def test_the_table_of_tasks_is_right() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \| (.*) \| ([\d,]+) \|$", PAGE.read_text(), re.M)
    assert [name for name, *_ in rows] == list(TASKS)
    for name, label, metrics, count in rows:
        task = TASKS[name]
        assert int(count.replace(",", "")) == task.rows["train"]
        assert label == (", ".join(task.labels) or "a score from 0 to 5")
        spoken = [metric.lower() for metric in re.split(", ", metrics)]
        assert spoken[: len(task.metrics)] == list(task.metrics)


def test_the_settings_are_accepted(tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(# settings\.yaml.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    (tmp_path / "settings.yaml").write_text(found.group(1))
    protocol = find_protocol("published", tmp_path / "settings.yaml")
    assert protocol.name == "published, changed"
    assert (protocol.tasks["rte"].epochs, protocol.tasks["rte"].start) == (10, "checkpoint")
    assert {settings.max_length for settings in protocol.tasks.values()} == {128}


def test_it_names_every_option_and_protocol() -> None:
    page = PAGE.read_text()
    options = re.findall(r'add\("(--\w+)"', inspect.getsource(commands._glue))
    assert len(options) > 9
    for option in options:
        assert f"`{option}" in page, option
    assert all(f"`{name}`" in page for name in PROTOCOLS)
