from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.data.text import TextDataModule
from rrr_lightning.errors import InputError
from rrr_lightning.models.student import describe_data


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"mode": "pakc"},
            "data.mode: unknown; found 'pakc'; accepted: truncate, pack",
        ),
        ({"sequence_length": 4}, "data.sequence_length: is too short; found 4; accepted: a whole"),
        ({"tuning_fraction": 1.0}, "data.tuning_fraction: out of range; found 1.0"),
        ({"max_documents": 0}, "data.max_documents: must be positive; found 0"),
        ({"max_val_documents": -1}, "data.max_val_documents: must be positive; found -1"),
        ({"mask_probability": 0.0}, "data.mask_probability: out of range; found 0.0"),
        ({"mask_probability": 1.0}, "data.mask_probability: out of range; found 1.0"),
        ({"tokenizer": "train:many"}, "data.tokenizer: is no size of a vocabulary"),
        ({"global_batch_size": 0}, "data.global_batch_size: must be positive; found 0"),
        (
            {"global_batch_size": 12, "micro_batch_size": 0},
            "data.micro_batch_size: must be positive; found 0",
        ),
        (
            {"streaming": True, "source": "embedded"},
            "data.source: cannot be used with data.streaming; found 'embedded'",
        ),
        (
            {"streaming": True, "mode": "pack"},
            "data.mode: cannot be used with data.streaming; found 'pack'; accepted: truncate",
        ),
        ({"streaming": True, "max_documents": 9}, "data.max_documents: cannot be used with data.s"),
        ({"streaming": True, "tuning_fraction": 0.1}, "data.tuning_fraction: cannot be used with"),
    ],
)
def test_settings_are_checked_before_anything_is_read(
    tmp_path: Path, settings: dict[str, Any], line: str
) -> None:
    with pytest.raises(InputError) as raised:
        TextDataModule(**{"source": "not/there", "cache_dir": str(tmp_path / "cache"), **settings})
    assert str(raised.value).startswith(line)
    assert not (tmp_path / "cache").exists()


def test_a_checkpoint_tells_all_settings_but_the_folder_of_the_cache() -> None:
    given: dict[str, Any] = {
        "source": "a/b",
        "config": "en",
        "tokenizer": "train:100",
        "val_split": "test",
    }
    given |= {"max_documents": 5, "max_val_documents": 7, "column": "body", "seed": 3}
    described = describe_data(TextDataModule(**given))
    assert described is not None
    assert described["class"] == "TextDataModule"
    assert given.items() <= described["arguments"].items()
    parameters = set(inspect.signature(TextDataModule).parameters)
    assert parameters - set(described["arguments"]) == {"cache_dir"}
