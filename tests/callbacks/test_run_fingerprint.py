"""What targets note of the data of their run: enough to tell other data, and no more than that."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rrr_lightning.callbacks.run_fingerprint import (
    LOOKED_AT,
    LOOKED_AT_STEPS,
    all_samples,
    looked_at,
    views_of,
)
from rrr_lightning.data.embedded import StoredImages
from rrr_lightning.data.images import ImageDataModule
from rrr_lightning.distillation.targets import read_plan, write_plan
from rrr_lightning.errors import InputError
from rrr_lightning.models.optimization import ON_BATCHES
from tests.data.test_image_sources import make_folder
from tests.data.text_toy import text_data, write_corpus, write_documents
from tests.targets.runs import classifier, digits, train, with_targets, write


def seen(step: int) -> list[int]:
    """The digits of a step, in the order of their places."""
    return [index for _, index in digits().batches.micro_batch(step, 0)]


# ------------------------------------------------------------------------------ all samples


def test_one_other_label_is_enough(
    folder: Path, tmp_path: Path, changed: Callable[..., None]
) -> None:
    used = {index for step in range(6) for index in seen(step)}
    unseen = min(set(range(len(digits().sets[0]))) - used)

    def relabel(training: StoredImages) -> None:
        training.labels[unseen] = (training.labels[unseen] + 1) % 10

    changed(relabel)
    line = r"^distillation\.targets: the labels of all samples are not those that the targets"
    with pytest.raises(InputError, match=line):
        train(tmp_path, with_targets(folder))


def images(source: Path, **settings: Any) -> dict[str, str]:
    given = {"global_batch_size": 2, "crop_size": 4, "resize_size": 4, "num_workers": 0, **settings}
    return all_samples(ImageDataModule(str(source), **given).sets[0])


def test_images_of_a_folder_are_told_by_their_paths(tmp_path: Path) -> None:
    names = [f"{kind}/{number}.png" for kind in ("ants", "bees") for number in range(4)]
    one, other = (make_folder(tmp_path / name / "train", *names) for name in ("one", "other"))
    for each in (one, other):
        make_folder(each.parent / "val", "ants/a.png", "bees/b.png")
    found = images(one.parent)
    assert sorted(found) == ["labels of all samples", "paths of all samples"]
    assert images(other.parent) == found, "wherever the folder lies"
    assert images(one.parent, tuning_fraction=0.25) != found, "those that are trained on"
    (other / "ants" / "1.png").rename(other / "ants" / "9.png")
    renamed = images(other.parent)
    assert renamed["paths of all samples"] != found["paths of all samples"]
    assert renamed["labels of all samples"] == found["labels of all samples"]


@pytest.mark.parametrize("odd", [b"caf\xe9.png", b"\xff\xfe.jpg"])
def test_names_of_images_need_not_be_utf_8(tmp_path: Path, odd: bytes) -> None:
    name = os.fsdecode(odd)
    make_folder(tmp_path, f"train/ants/{name}", "train/bees/1.png", "val/ants/1.png")
    make_folder(tmp_path, "val/bees/1.png")
    found = images(tmp_path)["paths of all samples"]
    assert found == hashlib.sha256(b"ants/" + odd + b"\0bees/1.png").hexdigest()


@pytest.mark.parametrize("streaming", [False, True])
def test_texts_are_told_by_what_was_prepared_or_by_their_files(
    tmp_path: Path, streaming: bool
) -> None:
    def found(corpus: Path) -> dict[str, str]:
        return all_samples(text_data(corpus, streaming=streaming).sets[0])

    one = write_corpus(tmp_path / "one")
    before = found(one)
    assert list(before) == [f"{'files' if streaming else 'tokens'} of all samples"]
    other = shutil.copytree(one, tmp_path / "other", ignore=shutil.ignore_patterns("cache"))
    for file in other.iterdir():
        os.utime(file, (1, 1))
    assert found(other) == before, "wherever the files lie, and whenever they were copied"
    write_documents(other / "train-3.jsonl", range(3, 60, 4))
    assert found(other) != before


def test_data_of_which_nothing_is_known_have_no_digests() -> None:
    assert all_samples(object()) == {}


# ------------------------------------------------------------------------------ views


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (range(3, 4), [3]),
        (range(0, 10, 5), [0, 5]),
        (range(9), [0, 1, 2, 3, 4, 5, 6, 8]),
        (range(0, 8001, 1000), [0, 1000, 2000, 3000, 4000, 5000, 6000, 8000]),
    ],
)
def test_views_are_looked_at_over_all_steps(steps: range, expected: list[int]) -> None:
    assert looked_at(digits(), steps) == expected
    assert len(expected) <= LOOKED_AT_STEPS


@pytest.mark.parametrize("place", range(0, 12, 3))
def test_every_view_that_is_looked_at_counts(changed: Callable[..., None], place: int) -> None:
    before = views_of(digits(), 5, 4)
    assert views_of(digits(), 5, 4) == before
    index = seen(5)[place]

    def brighten(training: StoredImages) -> None:
        training.images[index] += 1

    changed(brighten)
    assert views_of(digits(), 5, 4) != before


def test_sixteen_samples_are_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    get = StoredImages.__getitem__

    def count(training: StoredImages, keys: Any) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(len(keys))
        return get(training, keys)

    monkeypatch.setattr(StoredImages, "__getitem__", count)
    stored = json.loads((folder / "targets.json").read_text())["run"]
    steps = [int(name.split()[-1]) for name in stored if name.startswith("views")]
    assert steps == [0, 1, 2, 3]
    data = digits()
    digests = [views_of(data, step, LOOKED_AT // len(steps)) for step in steps]
    assert digests == [stored[f"views of step {step}"] for step in steps]
    assert sum(asked) == LOOKED_AT


@pytest.mark.parametrize("hook", ON_BATCHES)
@pytest.mark.parametrize("key", ["model", "data"])
def test_views_that_hooks_of_others_change_are_refused(
    folder: Path, tmp_path: Path, key: str, hook: str
) -> None:
    parts: dict[str, Any] = {"model": classifier(), "data": digits()}
    own = {hook: lambda self, batch, *_: batch}
    parts[key].__class__ = type("Augmented", (type(parts[key]),), own)
    run = {"module": parts["model"], "data": parts["data"]}
    line = rf"^{key}: stored targets cannot .* found 'Augmented\.{hook}'; accepted: augmentation in"
    with pytest.raises(InputError, match=line):
        train(tmp_path, with_targets(folder), **run)
    with pytest.raises(InputError, match=line):
        write(tmp_path / "targets", [classifier(7)], **run)
    assert not (tmp_path / "targets").exists()


# ------------------------------------------------------------------------------ versions


def test_what_an_earlier_version_noted_is_refused(folder: Path, tmp_path: Path) -> None:
    old = shutil.copytree(folder, tmp_path / "old")
    plan = read_plan(old)
    assert plan is not None
    del plan.run["format"]
    write_plan(old, plan)
    line = r"^distillation\.targets: the targets were written by another version, which notes"
    with pytest.raises(InputError, match=line):
        train(tmp_path, with_targets(old))
    with pytest.raises(InputError, match=line):
        write(old, [classifier(7)], classes=3)
