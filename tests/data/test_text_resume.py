"""A resumed run sees the same batches, masks included, and ends with the same weights."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from tests.data.text_toy import MaskedNotes, text_data, write_corpus
from tests.data.toy import make_trainer

STEPS = 10  # two epochs and a half
WAYS = {"map": {}, "pack": {"mode": "pack"}, "stream": {"streaming": True}}


class Save(Callback):
    """Saves after every micro-batch, for as long as the process lives."""

    def __init__(self, folder: Path, kill_at: int | None = None) -> None:
        self.folder, self.kill_at, self.count = folder, kill_at, 0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.count += 1
        if self.count == self.kill_at:
            signal.raise_signal(signal.SIGKILL)
        trainer.save_checkpoint(self.folder / f"batch{self.count}.ckpt")


def fit(
    corpus: Path,
    way: str,
    callbacks: list[Callback],
    checkpoint: Path | None = None,
    trainer: dict[str, Any] | None = None,
    **settings: Any,
) -> MaskedNotes:
    data = text_data(corpus, **{"micro_batch_size": 4, **WAYS[way], **settings})
    module = MaskedNotes(data.vocabulary)
    given = {"callbacks": callbacks, "limit_val_batches": 0, **(trainer or {})}
    make_trainer(corpus, STEPS, **given).fit(module, datamodule=data, ckpt_path=checkpoint)
    return module


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text")


@pytest.fixture(scope="module", params=WAYS)
def uninterrupted(request: pytest.FixtureRequest, corpus: Path) -> tuple[str, Path, MaskedNotes]:
    folder = corpus / request.param
    return request.param, folder, fit(corpus, request.param, [Save(folder)])


def assert_continues(whole: MaskedNotes, resumed: MaskedNotes, step: int) -> None:
    assert resumed.seen == [item for item in whole.seen if item[0] >= step]
    for left, right in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("batch", [1, 5, 12, 15, 22])
def test_resume_after_any_micro_batch(
    uninterrupted: tuple[str, Path, MaskedNotes], corpus: Path, batch: int
) -> None:
    way, folder, whole = uninterrupted
    resumed = fit(corpus, way, [], folder / f"batch{batch}.ckpt")
    assert_continues(whole, resumed, step=batch // 3)


def test_resume_with_workers(uninterrupted: tuple[str, Path, MaskedNotes], corpus: Path) -> None:
    way, folder, whole = uninterrupted
    resumed = fit(corpus, way, [], folder / "batch7.ckpt", num_workers=2)
    assert_continues(whole, resumed, step=2)


def test_a_stream_resumes_without_the_cache(
    uninterrupted: tuple[str, Path, MaskedNotes], corpus: Path
) -> None:
    way, folder, whole = uninterrupted
    cache = {"cache_dir": str(folder / "another cache")}
    assert_continues(whole, fit(corpus, way, [], folder / "batch20.ckpt", **cache), step=6)


@pytest.mark.slow
def test_a_killed_process_is_continued(
    uninterrupted: tuple[str, Path, MaskedNotes], corpus: Path, tmp_path: Path
) -> None:
    way, _, whole = uninterrupted
    code = (
        "import sys; from tests.data.test_text_resume import *;"
        "corpus, way, folder = sys.argv[1:];"
        "fit(Path(corpus), way, [Save(Path(folder), kill_at=17)], num_workers=1)"
    )
    arguments = [sys.executable, "-c", code, str(corpus), way, str(tmp_path)]
    killed = subprocess.run(arguments, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert_continues(whole, fit(corpus, way, [], tmp_path / "batch16.ckpt"), step=5)


class Leave(Callback):
    """Leaves what a rank saw as a file."""

    def __init__(self, name: Path) -> None:
        self.name = name

    def on_train_batch_end(self, trainer: Trainer, module: Any, *args: Any) -> None:
        if trainer.global_step == 7 and "resumed" not in self.name.name:
            trainer.save_checkpoint(f"{self.name}.ckpt")

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        weights = [parameter.detach() for parameter in module.parameters()]
        torch.save((module.seen, weights), f"{self.name}-{trainer.global_rank}.pt")


def two_ranks(corpus: Path, way: str, name: Path, **settings: Any) -> list[Any]:
    strategy = {"devices": 2, "strategy": "ddp_fork"}
    fit(corpus, way, [Leave(name)], trainer=strategy, micro_batch_size=2, **settings)
    return [torch.load(f"{name}-{rank}.pt") for rank in range(2)]


@pytest.mark.ddp
@pytest.mark.parametrize("way", ["map", "stream"])
def test_two_ranks_share_the_whole_of_every_epoch_and_resume(
    corpus: Path, tmp_path: Path, way: str
) -> None:
    alone = fit(corpus, way, [])
    ranks = two_ranks(corpus, way, tmp_path / "whole")
    for step in range(STEPS):
        shares = [
            [number for at, _, numbers in seen if at == step for number in numbers]
            for seen, _ in ranks
        ]
        assert [len(share) for share in shares] == [6, 6]
        assert not set(shares[0]) & set(shares[1])
        expected = [n for at, _, numbers in alone.seen if at == step for n in numbers]
        assert sorted(shares[0] + shares[1]) == sorted(expected)
    checkpoint = tmp_path / "whole.ckpt"
    resumed = two_ranks(corpus, way, tmp_path / "resumed", checkpoint=checkpoint)
    for (seen, weights), (rest, ends) in zip(ranks, resumed, strict=True):
        assert rest == [item for item in seen if item[0] >= 7]
        assert all(map(torch.equal, weights, ends))
