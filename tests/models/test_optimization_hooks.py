from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch import LightningDataModule, LightningModule

from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.models.optimization import ON_BATCHES, hook_of_others


def test_lightning_and_this_library_change_no_batch() -> None:
    for part in (LightningModule(), LightningDataModule(), ImageClassifier("cifar_resnet8", 10)):
        assert hook_of_others(part) is None


@pytest.mark.parametrize("base", [LightningModule, LightningDataModule])
@pytest.mark.parametrize("name", ON_BATCHES)
def test_a_hook_of_others_is_named(base: Any, name: str) -> None:
    def changed(self: Any, batch: Any, *_: Any) -> Any:
        return batch

    assert hook_of_others(type("Changed", (base,), {name: changed})()) == name
