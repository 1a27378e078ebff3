"""The script on the page about text is run as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.data.preparation import CHUNK_DOCUMENTS, PART_CHUNKS
from rrr_lightning.data.streaming import BLOCK_DOCUMENTS, MOST_LANES
from rrr_lightning.data.wordpiece import TRAINING_DOCUMENTS
from tests.data.text_toy import write_corpus

PAGE = Path(__file__).parents[2] / "docs" / "text.md"


def test_the_script_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(tmp_path / "corpus", files=1)
    monkeypatch.chdir(tmp_path)
    found = re.search(r"<!-- own -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found.group(1), names)
    assert names["batch"]["input_ids"].shape == (16, 32)
    assert names["text"].startswith("[CLS] ")


def test_the_numbers_on_the_page_are_those_of_the_code() -> None:
    text = PAGE.read_text()
    for number in (BLOCK_DOCUMENTS, CHUNK_DOCUMENTS * PART_CHUNKS, TRAINING_DOCUMENTS):
        assert f"{number:,} " in text
    assert f"at most {MOST_LANES} *shards*" in text
