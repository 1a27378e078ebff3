"""The comparison with peers lists every peer for both families, with a loop or with a reason."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts" / "benchmarks"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("peers")


def test_every_peer_is_compared_or_listed_with_why(
    peers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # none is installed
    rows = peers.comparisons("cpu", "")
    assert {row["name"] for row in rows} == {
        f"{family}: distilled step / {peer}"
        for family in ("ResNet", "BERT")
        for peer in peers.PEERS
    }
    notes = {row["name"]: row["note"] for row in rows}
    assert notes["BERT: distilled step / textbrewer"] == "it could not be installed"
    assert notes["BERT: distilled step / timm"] == "its tasks take images and class labels"
    assert all(row["ratio"] is None and row["goal"] is None for row in rows)


@pytest.mark.filterwarnings("ignore")
def test_a_peer_and_this_library_take_turns_on_the_same_batches(
    peers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[torch.Tensor]] = {"peer": []}
    batches_of = importlib.import_module("_peer_loops").image_batches

    def loop(work: Any, clock: Any, teacher: Any) -> None:
        assert not teacher.training
        for images, _ in batches_of(work, clock.total):
            seen["peer"].append(images)
            clock.tick()

    work = peers.WORKLOADS["cpu"]
    small = type(work)("cpu", "cifar_resnet8", 10, 4, 8, "32-true")
    compared = peers.against("ResNet", small, "ResNet: distilled step / it", loop)
    row = compared.run("cpu", repeats=1, warm_up=1, steps=2)
    assert (row["goal"], row["n"]) == (1.0, 1)
    assert len(seen["peer"]) == 3
    assert seen["peer"][0].is_contiguous(memory_format=torch.channels_last)
    assert seen["peer"][0].dtype == torch.float32
