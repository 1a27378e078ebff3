"""Invariants of the callback in a module that knows nothing of this library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.distillation.losses import KLDivergence, LogitMSE
from rrr_lightning.distillation.pool import TeacherPool
from rrr_lightning.errors import InputError
from tests.callbacks.foreign import (
    DictForeign,
    Foreign,
    counted_forwards,
    distil,
    fit,
    make_data,
    make_module,
    make_teacher,
    make_trainer,
    weights,
)


def resumes_a_plain_loader(test: Any) -> Any:
    """Lets pass what Lightning says of resumed runs over loaders that know no position."""
    for warning in (
        "ignore:Checkpoint directory .* exists and is not empty",
        "ignore:You're resuming from a checkpoint that ended before the epoch ended",
    ):
        test = pytest.mark.filterwarnings(warning)(test)
    return test


# ------------------------------------------------------------------------------ off is free


@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}]
)
def test_weight_zero_is_bit_equal_to_no_callback(options: dict[str, Any]) -> None:
    plain, distilled = make_module(dropout=0.3), make_module(dropout=0.3)
    fit(plain, **options)
    fit(distilled, distil([make_teacher(dropout=0.3)], schedule={"weight": 0.0}), **options)
    assert torch.equal(weights(plain), weights(distilled))
    assert plain.losses == distilled.losses


@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}]
)
def test_before_a_late_window_is_bit_equal_to_no_callback(options: dict[str, Any]) -> None:
    plain, distilled = make_module(dropout=0.3), make_module(dropout=0.3)
    fit(plain, **options)
    fit(distilled, distil([make_teacher()], schedule={"start": 0.5, "until": 0.9}), **options)
    # the gradients of the optimizer steps 0 to 3, then the window opens
    assert all(
        torch.equal(*pair)
        for pair in zip(plain.gradients[:4], distilled.gradients[:4], strict=True)
    )
    assert not torch.equal(plain.gradients[4], distilled.gradients[4])


class Watch(Callback):
    """Notes, per step, whether the module still carries the wrapper."""

    def __init__(self) -> None:
        self.wrapped: list[bool] = []
        self.hooks: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.wrapped.append("training_step" in pl_module.__dict__)
        self.hooks.append(len(pl_module.net._forward_hooks))


def test_after_until_nothing_is_left() -> None:
    module, teacher, watch = make_module(), make_teacher(), Watch()
    callback = distil([teacher], schedule={"until": 0.5})
    with counted_forwards(teacher) as calls:
        fit(module, watch, callback)
    assert len(calls) == 1 + 4  # the probe on the first batch, then steps 0 to 3
    assert not any(calls), "a teacher ran in training mode"
    assert watch.wrapped == [True] * 4 + [False] * 4
    assert watch.hooks == [0] * 8, "a hook outlives its step"
    assert callback.teachers == []


def test_skipped_steps_run_no_teacher() -> None:
    teacher = make_teacher()
    with counted_forwards(teacher) as calls:
        fit(make_module(), distil([teacher], schedule={"until": 1.0, "every_n_steps": 4}))
    assert len(calls) == 1 + 2


def test_release_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit(make_module(), distil([make_teacher()]))
    assert "distillation is over at step 4: freed" in caplog.text
    assert "SHA-256" in caplog.text


# ------------------------------------------------------------------------------ the mathematics


def test_the_loss_is_the_weighted_sum() -> None:
    module, teacher = make_module(), make_teacher()
    inputs, labels = make_data()[:8]
    task = nn.functional.cross_entropy(module.net(inputs), labels)
    with torch.no_grad():
        rows = teacher(inputs)
    mixed = 0.3 * task + 0.7 * KLDivergence(temperature=2.0)(module.net(inputs), rows)
    (expected,) = [
        torch.cat([g.flatten() for g in torch.autograd.grad(mixed, list(module.parameters()))])
    ]
    callback = distil(
        [teacher], loss=KLDivergence(temperature=2.0), schedule={"weight": 0.7, "until": 1.0}
    )
    fit(module, callback, steps=1)
    torch.testing.assert_close(module.gradients[0], expected)


@pytest.mark.parametrize("combine", [None, "logits", "probabilities"])
def test_ensemble_combines_as_told(combine: Any) -> None:
    teachers = [make_teacher(seed) for seed in (1, 2, 3)]
    module = make_module()
    inputs, labels = make_data()[:8]
    with torch.no_grad():
        rows = [teacher(inputs) for teacher in teachers]
    if combine == "logits":
        probabilities = torch.stack(rows).mean(0).div(4).softmax(1)
    else:
        probabilities = torch.stack([r.div(4).softmax(1) for r in rows]).mean(0)
    student = module.net(inputs)
    divergence = (probabilities * (probabilities.log() - student.div(4).log_softmax(1))).sum(1)
    mixed = 0.1 * nn.functional.cross_entropy(student, labels) + 0.9 * 16 * divergence.mean()
    expected = torch.cat(
        [g.flatten() for g in torch.autograd.grad(mixed, list(module.parameters()))]
    )
    fit(module, distil(teachers, pool=TeacherPool(per_step="all", combine=combine)), steps=1)
    torch.testing.assert_close(module.gradients[0], expected, rtol=1e-4, atol=1e-6)


def test_one_teacher_runs_per_step_and_its_number_is_logged() -> None:
    teachers = [make_teacher(seed) for seed in range(4)]
    pool = TeacherPool(seed=5)
    logged: list[float] = []

    class Read(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            logged.append(float(trainer.callback_metrics["train/teacher"]))

    fit(make_module(), distil(teachers, pool=pool, schedule={"until": 1.0}), Read(), steps=20)
    assert logged == [pool.draw(step, 4)[0] for step in range(20)]


@pytest.mark.parametrize("cls", [Foreign, DictForeign])
@pytest.mark.parametrize("micro_batch", [16, 8, 4])
def test_the_gradient_does_not_depend_on_the_split(cls: type[Foreign], micro_batch: int) -> None:
    whole, split = make_module(cls), make_module(cls)
    teachers = [make_teacher(seed) for seed in range(3)]
    named = None if cls is DictForeign else "net"
    for module, size in ((whole, 16), (split, micro_batch)):
        callback = distil(teachers, student_logits=named, schedule={"until": 1.0})
        fit(module, callback, batch_size=size, accumulate_grad_batches=16 // size, steps=4)
    for one, other in zip(whole.gradients, split.gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)  # float32, sums reordered


def test_logged_keys_and_values() -> None:
    module = make_module()
    trainer = fit(module, distil([make_teacher()], schedule={"until": 1.0}), steps=4)
    metrics = trainer.callback_metrics
    assert {
        "train/task_loss",
        "train/distillation_loss",
        "train/distillation_weight",
        "train/teacher",
        "train/agreement",
    } <= set(metrics)
    assert float(metrics["train/distillation_weight"]) == pytest.approx(0.9 * (1 - 3 / 4))
    assert float(metrics["train/task_loss"]) == pytest.approx(module.losses[-1])
    assert 0 <= float(metrics["train/agreement"]) <= 1


# ------------------------------------------------------------------------------ no trace


def test_checkpoints_and_parameters_know_nothing_of_the_teacher(tmp_path: Path) -> None:
    plain, distilled = make_module(), make_module()
    files = []
    for name, module, extra in (
        ("plain", plain, []),
        ("distilled", distilled, [distil([make_teacher()], schedule={"until": 1.0})]),
    ):
        saver = ModelCheckpoint(tmp_path / name, filename="end", every_n_train_steps=4)
        fit(module, saver, *extra, enable_checkpointing=True)
        files.append(torch.load(tmp_path / name / "end.ckpt", weights_only=True))
    assert files[0]["state_dict"].keys() == files[1]["state_dict"].keys()
    names = [[name for name, _ in module.named_parameters()] for module in (plain, distilled)]
    assert names[0] == names[1]
    (state,) = [v for k, v in files[1]["callbacks"].items() if "Distillation" in k]
    assert state["total_steps"] == 8
    assert all(isinstance(value, str) and len(value) == 64 for value in state["teachers"])


class Explodes(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 2:
            raise RuntimeError("the step failed")
        return super().training_step(batch, batch_idx)


def test_an_exception_leaves_no_trace() -> None:
    module, teacher = make_module(Explodes), make_teacher(dropout=0.1)
    callback = distil([teacher])
    with pytest.raises(RuntimeError, match="the step failed"):
        fit(module, callback)
    assert "training_step" not in module.__dict__
    assert not module.net._forward_hooks
    assert teacher.training
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert callback.teachers == []


def test_objects_come_back_as_they_were_and_a_second_fit_uses_them_again() -> None:
    module, teacher = make_module(), make_teacher(dropout=0.1)
    teacher[0].weight.requires_grad_(False)
    before = weights(teacher)
    callback = distil([teacher])
    for _ in range(2):
        with counted_forwards(teacher) as calls:
            fit(module, callback)
        assert len(calls) == 5
        assert teacher.training
        assert not teacher[0].weight.requires_grad
        assert teacher[0].bias.requires_grad
        assert torch.equal(before, weights(teacher))


def test_validate_loads_no_teacher() -> None:
    class Validates(Foreign):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/x", self.net(batch[0]).mean())

    callback = distil(["no/such/file.ckpt"])
    trainer = make_trainer(callbacks=[callback])
    trainer.validate(make_module(Validates), DataLoader(make_data(), batch_size=8), verbose=False)
    assert callback.teachers == []


# ------------------------------------------------------------------------------ resume


def resume(
    tmp_path: Path, first: DistillationCallback, then: DistillationCallback, steps: int = 12
) -> None:
    saver = ModelCheckpoint(
        tmp_path,
        filename="at{step}",
        auto_insert_metric_name=False,
        every_n_train_steps=4,
        save_top_k=-1,
    )
    fit(make_module(), saver, first, enable_checkpointing=True)
    loader = DataLoader(make_data(), batch_size=8)
    # the same saver: Lightning warns where a callback of the checkpoint is missing
    trainer = make_trainer(steps=steps, callbacks=[saver, then], enable_checkpointing=True)
    trainer.fit(make_module(), loader, ckpt_path=tmp_path / "at4.ckpt")


@resumes_a_plain_loader
def test_resume_with_other_teachers_is_refused_unless_allowed(tmp_path: Path) -> None:
    one, other = make_teacher(1), make_teacher(2)
    resume(tmp_path / "same", distil([one]), distil([one]))
    with pytest.raises(InputError, match=r"not those of the checkpoint.*allow_teacher_change"):
        resume(tmp_path / "other", distil([one]), distil([other]))
    resume(tmp_path / "allowed", distil([one]), distil([other], allow_teacher_change=True))


@resumes_a_plain_loader
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pool": TeacherPool(seed=3)}, r"distillation\.pool\.seed: .*found '3'; accepted: 0 as"),
        ({"schedule": {"until": 0.9}}, r"distillation\.schedule\.until: .*found '0\.9'; .*0\.5 as"),
        ({"loss": LogitMSE()}, r"distillation\.loss: .*LogitMSE.*accepted: KLDivergence"),
    ],
)
def test_resume_with_other_settings_is_refused(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    teacher = make_teacher()
    with pytest.raises(InputError, match=message):
        resume(tmp_path, distil([teacher]), distil([teacher], **changed))


@resumes_a_plain_loader
def test_a_resumed_run_may_grow_but_not_shrink(tmp_path: Path) -> None:
    teacher = make_teacher()
    resume(tmp_path / "longer", distil([teacher]), distil([teacher]), steps=12)
    with pytest.raises(InputError, match=r"trainer\.max_steps: .*found 6; accepted: 8 as"):
        resume(tmp_path / "shorter", distil([teacher]), distil([teacher]), steps=6)


# ------------------------------------------------------------------------------ bad input


class Manual(Foreign):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


def test_manual_optimization_is_refused() -> None:
    with pytest.raises(InputError, match="manual optimization"):
        fit(make_module(Manual), distil([make_teacher()]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teachers": []}, r"distillation\.teachers: there is no teacher"),
        ({"teachers": None}, r"distillation\.teachers: there is no teacher"),
        ({"teachers": "a", "pool": TeacherPool(per_step=2)}, r"distillation\.pool\.per_step"),
        ({"teachers": "a", "teacher_min_accuracy": 1.5}, "teacher_min_accuracy: out of range"),
        ({"teachers": "a", "teacher_precision": "64"}, "teacher_precision"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DistillationCallback(**arguments)


def test_teacher_inputs_are_used() -> None:
    teacher = make_teacher()
    seen: list[Tensor] = []
    teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    fit(make_module(), distil([teacher], teacher_inputs=lambda batch: -batch[0]), steps=1)
    assert torch.equal(seen[-1], -make_data()[:8][0])


def test_the_student_is_no_teacher_of_itself() -> None:
    module = make_module()
    with pytest.raises(InputError, match="shares parameters with, the student"):
        fit(module, distil([module.net]))
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_rows_after_the_window_repeat_no_stale_value() -> None:
    rows: list[set[str]] = []

    class Read(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            rows.append({name.partition(".")[2] for name in trainer._results or {}})

    fit(make_module(), distil([make_teacher()], schedule={"every_n_steps": 2}), Read(), steps=8)
    distilled = ["train/distillation_weight" in row for row in rows]
    assert distilled == [True, False, True, False, False, False, False, False]
