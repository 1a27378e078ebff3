"""Targets of masked tokens: every sample has a number of rows of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rrr_lightning.distillation.targets import TargetStore
from tests.data.text_toy import text_data, write_corpus
from tests.models.texts import TextData, language_model
from tests.targets.runs import assert_like, train, with_targets, with_teachers, write

TEACHERS = [language_model(seed=7)]


@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_all_classes_train_like_the_teacher(tmp_path: Path, micro_batch_size: int | None) -> None:
    folder = tmp_path / "targets"
    lines = write(folder, TEACHERS, kind="dense", module=language_model(), data=TextData())
    assert "about" in lines[0]
    live, stored = (
        train(
            tmp_path,
            callback,
            module=language_model(),
            data=TextData(micro_batch_size=micro_batch_size),
        )
        for callback in (with_teachers(TEACHERS), with_targets(folder))
    )
    assert_like(stored, live, tolerance=5e-3)


@pytest.mark.parametrize("kind", ["sampled", "top_k"])
def test_some_classes_do_not_depend_on_micro_batches(tmp_path: Path, kind: str) -> None:
    folders = tmp_path / "whole", tmp_path / "split"
    for folder, size in zip(folders, (None, 4), strict=True):
        data = TextData(micro_batch_size=size)
        write(folder, TEACHERS, kind=kind, module=language_model(), data=data)
    one, other = (TargetStore(folder).read(2, range(12)) for folder in folders)
    assert len(one) == len(other)
    # The teacher's sums go another way; a sample may then fall to a neighbour, but seldom.
    same = (one.classes_NK == other.classes_NK).float().mean()
    assert same > 0.95
    torch.testing.assert_close(one.log_p, other.log_p, rtol=5e-3, atol=5e-3)
    run = {"module": language_model(), "data": TextData(micro_batch_size=6)}
    rows, _ = train(tmp_path, with_targets(folders[1]), **run)
    assert all("agreement" in row for row in rows[:4])


def test_samples_are_the_default(tmp_path: Path) -> None:
    write(tmp_path, TEACHERS, module=language_model(), data=TextData())
    encoding = TargetStore(tmp_path).plan.encoding
    assert (encoding.kind, encoding.kept, encoding.columns) == ("sampled", 12, 30)


def test_streams_are_read_as_in_the_run(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")

    def run() -> dict[str, Any]:
        data = text_data(corpus, streaming=True)
        size = data.vocabulary_size
        module = language_model(vocabulary_size=size, network={"vocab_size": size})
        return {"module": module, "data": data}

    size = run()["data"].vocabulary_size
    teachers = [language_model(seed=7, vocabulary_size=size, network={"vocab_size": size})]
    write(tmp_path / "targets", teachers, kind="dense", **run())
    live = train(tmp_path, with_teachers(teachers), **run())
    assert_like(train(tmp_path, with_targets(tmp_path / "targets"), **run()), live, tolerance=5e-3)
