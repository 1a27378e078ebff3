"""Stored targets in a run: what they refuse before the first step, and what a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.data.embedded import StoredImages
from rrr_lightning.distillation.losses import KLDivergence, LogitMSE
from rrr_lightning.distillation.pool import TeacherPool
from rrr_lightning.errors import InputError
from tests.callbacks.foreign import fit, make_module
from tests.targets.runs import classifier, digits, train, with_targets, with_teachers, write


class Notes(Callback):
    """Notes after how many steps the module was as it is without the callback."""

    def __init__(self) -> None:
        self.wrapped: list[bool] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.wrapped.append("training_step" in vars(pl_module))


def test_no_teacher_is_in_memory_and_nothing_is_left_after_the_window(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback, notes = with_targets(folder), Notes()
    with caplog.at_level("INFO"):
        rows, _ = train(tmp_path, callback, notes)
    assert callback.teachers == []
    assert notes.wrapped == [True] * 4 + [False] * 2
    assert ["distillation_loss" in row for row in rows] == [True] * 4 + [False] * 2
    assert "distillation is over at step 4: the stored targets are closed" in caplog.text


def test_many_students_and_shorter_windows_share_a_folder(folder: Path, tmp_path: Path) -> None:
    for settings in ({}, {"schedule": {"until": 0.4, "shape": "constant", "weight": 0.3}}):
        rows, _ = train(tmp_path, with_targets(folder, **settings), module=classifier(seed=5))
        assert rows[0]["teacher"] in (0, 1)


@pytest.mark.parametrize(
    ("run", "line"),
    [
        ({"data": {"seed": 4}}, r"^data\.seed: differs from the run .*found '4'; accepted: 3, or"),
        ({"data": {"global_batch_size": 20}}, r"^data\.global_batch_size: differs"),
        ({"module": {"mixup_alpha": 0.2}}, r"^model\.mixup_alpha: differs from the run that"),
        ({"module": {"mean": (0.0, 0.0, 0.0)}}, r"^model\.normalization: differs from the run"),
        ({"module": {"class_names": [*"abcdefghij"]}}, r"class_names|model\.classes"),
        ({"steps": 8}, r"^distillation\.targets: there are no targets of 2 distilled steps"),
        ({"schedule": {"until": 1.0}}, r"no targets of 2 distilled steps of 6.*of them step 4;"),
        ({"loss": KLDivergence(3.0)}, r"^distillation\.loss\.temperature: .*accepted: 2\.0"),
        ({"loss": LogitMSE()}, r"^distillation\.loss\.temperature: the targets were written for"),
        ({"pool": TeacherPool(seed=1)}, r"^distillation\.pool\.seed: differs from the pool"),
        ({"targets": "not/there"}, r"^distillation\.targets: there is no targets\.json"),
    ],
    ids=str,
)
def test_targets_of_another_run_are_refused(
    folder: Path, tmp_path: Path, run: dict[str, Any], line: str
) -> None:
    run = dict(run)
    data, module = digits(**run.pop("data", {})), classifier(**run.pop("module", {}))
    steps, where = run.pop("steps", 6), Path(run.pop("targets", folder))
    with pytest.raises(InputError, match=line):
        train(tmp_path, with_targets(where, **run), steps=steps, data=data, module=module)


def test_other_views_are_refused(
    folder: Path, tmp_path: Path, changed: Callable[..., None]
) -> None:
    def brighten(training: StoredImages) -> None:
        training.images += 1

    changed(brighten)
    with pytest.raises(InputError, match=r"^distillation\.targets: the views of step 0 are not"):
        train(tmp_path, with_targets(folder))


def test_mixed_images_need_the_same_micro_batches(tmp_path: Path) -> None:
    teachers, mixing = [classifier(7)], {"mixup_alpha": 0.5}
    write(tmp_path, teachers, module=classifier(**mixing))
    with pytest.raises(InputError, match=r"^data\.micro_batch_size: differs .*accepted: 12, or"):
        train(
            tmp_path,
            with_targets(tmp_path),
            module=classifier(**mixing),
            data=digits(micro_batch_size=6),
        )


def test_data_of_another_project_are_refused(folder: Path) -> None:
    callback = with_targets(folder, student_logits="net")
    with pytest.raises(InputError, match=r"^data: targets can be stored only of data whose"):
        fit(make_module(), callback)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"teachers": "a.ckpt"}, r"^distillation\.targets: .*both are given; .*teachers=null"),
        ({"teacher_precision": "bf16"}, r"^distillation\.teacher_precision: there is no teacher"),
        ({"teacher_min_accuracy": 0.5}, r"^distillation\.teacher_min_accuracy: there is no"),
        (
            {"teacher_compile": True},
            r"^distillation\.teacher_compile: there is no.*accepted: false",
        ),
    ],
    ids=str,
)
def test_options_of_teachers_are_refused(given: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        DistillationCallback(targets="folder", **given)


# ------------------------------------------------------------------------------ checkpoints


class SaveAt(Callback):
    """Saves a checkpoint after a step."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("step", [2, 5])
def test_a_resumed_run_is_the_run_that_was_not_stopped(
    folder: Path, tmp_path: Path, step: int
) -> None:
    path = tmp_path / "at.ckpt"
    rows, weights = train(tmp_path, with_targets(folder), SaveAt(path, step))
    again, resumed = train(tmp_path, with_targets(folder), ckpt_path=path)
    assert again == rows[step:]
    assert torch.equal(resumed, weights)


def test_resume_with_other_targets_is_refused_or_allowed(folder: Path, tmp_path: Path) -> None:
    teachers = [classifier(7), classifier(8)]
    write(tmp_path / "more", teachers, classes=4)
    stored, live = tmp_path / "stored.ckpt", tmp_path / "live.ckpt"
    train(tmp_path, with_targets(folder), SaveAt(stored, 2))
    train(tmp_path, with_teachers(teachers), SaveAt(live, 2))
    other: list[tuple[Path, DistillationCallback]] = [
        (stored, with_targets(tmp_path / "more")),
        (stored, with_teachers(teachers)),
        (live, with_targets(folder)),
    ]
    for path, callback in other:
        with pytest.raises(InputError, match=r"^distillation\.targets: differs from the check"):
            train(tmp_path, callback, ckpt_path=path)
    train(tmp_path, with_targets(folder, allow_teacher_change=True), ckpt_path=live)
