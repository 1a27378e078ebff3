from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import sklearn.metrics
import torch
import transformers
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.errors import InputError
from rrr_lightning.models.student import CHECKPOINT_KEY
from rrr_lightning.models.text_classifier import TextClassifier
from rrr_lightning.teachers import load_teacher
from tests.models.glue_runs import classifier, task_data
from tests.models.glue_runs import glue as glue
from tests.models.glue_runs import tokenizer as tokenizer
from tests.models.texts import ROUNDING, TextData, language_model
from tests.models.tiny import Steps, make_trainer, weights

CLASSES = {"cola": 2, "rte": 2, "mrpc": 2, "stsb": 1, "mnli": 3}


def fitted(folder: Path, data: Any, classes: int = 2, **arguments: Any) -> tuple[Any, str]:
    model = classifier(classes, **arguments)
    trainer = make_trainer(2)
    trainer.fit(model, data)
    trainer.save_checkpoint(folder / "end.ckpt")
    return model, str(folder / "end.ckpt")


def one(data: Any) -> dict[str, Tensor]:
    batch: dict[str, Tensor] = data.split("train")[[(0, 4), (0, 11), (0, 12)]]
    return batch


# ------------------------------------------------------------------------------ steps


@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_logits_and_loss_are_those_of_transformers(glue: str, tokenizer: str, task: str) -> None:
    model, batch = classifier(CLASSES[task]), one(task_data(glue, tokenizer, task))
    reference = transformers.BertForSequenceClassification(model.network.config).eval()
    reference.load_state_dict(model.network.state_dict())
    expected = reference(**batch)
    assert torch.equal(model.eval().logits(batch), expected.logits)
    model._trainer = None
    loss = model._losses(model(batch), batch["labels"]).mean()
    torch.testing.assert_close(loss, expected.loss, **ROUNDING)


@pytest.mark.parametrize("task", list(CLASSES))
def test_an_evaluation_logs_the_official_metrics(glue: str, tokenizer: str, task: str) -> None:
    data, model = task_data(glue, tokenizer, task, eval_batch_size=5), classifier(CLASSES[task])
    torch.manual_seed(0)
    nn.init.normal_(model.network.classifier.weight)
    trainer = make_trainer(1, limit_val_batches=1.0)
    (logged, *others) = trainer.validate(model, data, verbose=False)
    metrics = {**logged, **(others[0] if others else {})}
    expected: dict[str, float] = {}
    for split, suffix in zip(TASKS[task].validation_splits, data.evaluation_suffixes, strict=True):
        given = data.split(split)[[(0, index) for index in range(23)]]
        with torch.no_grad():
            rows = model.logits(given)
        labels = given["labels"]
        expected[f"val/loss{suffix}"] = float(model._losses(rows, labels).mean())
        for name in TASKS[task].metrics:
            expected[f"val/{name}{suffix}"] = reference_score(name, rows, labels)
    assert metrics == pytest.approx(expected, abs=5e-4)  # batches are rounded otherwise


def reference_score(name: str, rows: Tensor, labels: Tensor) -> float:
    if name in ("pearson", "spearman"):
        score: Any = getattr(scipy.stats, f"{name}r")
        return float(score(rows[:, 0].numpy(), labels.numpy()).statistic)
    scores: dict[str, Any] = {
        "accuracy": sklearn.metrics.accuracy_score,
        "f1": sklearn.metrics.f1_score,
        "matthews": sklearn.metrics.matthews_corrcoef,
    }
    return float(scores[name](labels.numpy(), rows.argmax(dim=1).numpy()))


class Leave(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        torch.save(metrics, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


@pytest.mark.ddp
@pytest.mark.parametrize("task", ["mnli", "stsb"])
def test_evaluation_is_exact_over_ranks(
    tmp_path: Path, glue: str, tokenizer: str, task: str
) -> None:
    for devices in ({}, {"devices": 2, "strategy": "ddp_fork"}):
        trainer = make_trainer(callbacks=[Leave(tmp_path)], limit_val_batches=1.0, **devices)
        data = task_data(glue, tokenizer, task, eval_batch_size=3)
        trainer.validate(classifier(CLASSES[task]), data, verbose=False)
    alone, *ranks = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    assert len(alone) == (4 if task == "mnli" else 3)
    for rank in ranks:
        assert rank == pytest.approx(alone, rel=1e-5)


def test_a_foreign_loader_of_texts(glue: str, tokenizer: str) -> None:
    """As in a project that has its own data: no data module, one loader."""
    batch = one(task_data(glue, tokenizer))
    loader: DataLoader[Any] = DataLoader([batch] * 4, batch_size=None)  # type: ignore[arg-type]
    trainer = make_trainer(4, limit_val_batches=1.0, log_every_n_steps=1)
    model = classifier()
    trainer.fit(model, loader, loader)
    assert set(trainer.callback_metrics) == {"train/loss", "val/loss", "val/accuracy"}
    trainer = make_trainer(2, limit_val_batches=1.0)
    with pytest.raises(
        InputError, match="more loaders than the data module names; found 'loader 1'"
    ):
        trainer.validate(model, [loader, loader], verbose=False)


def test_a_run_learns(glue: str, tokenizer: str) -> None:
    losses = {}
    for steps in (1, 40):
        model, data = classifier(1), task_data(glue, tokenizer, "stsb")
        make_trainer(steps).fit(model, data)
        rows = data.split("train")[[(0, index) for index in range(61)]]
        losses[steps] = float(model._losses(model(rows), rows["labels"]).mean().detach())
    assert losses[40] < losses[1] - 0.5


# ------------------------------------------------------------------------------ construction


def test_initial_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(1)
    first = weights(classifier())
    torch.manual_seed(2)
    assert torch.equal(first, weights(classifier()))
    assert not torch.equal(first, weights(classifier(seed=1)))


def test_the_recipe_is_the_default() -> None:
    model = TextClassifier("mini")
    assert (model.warmup_fraction, model.learning_rate, model.betas) == (0.06, 5e-5, (0.9, 0.98))
    (group,) = model.default_optimizer(model.parameter_groups()).param_groups
    assert (group["weight_decay"], group["eps"]) == (0.1, 1e-6)
    assert model.network.config.hidden_dropout_prob == 0.1


def test_the_learning_rate_warms_up_and_goes_down_to_zero(glue: str, tokenizer: str) -> None:
    noted = Steps()
    trainer = make_trainer(10, callbacks=[noted])
    trainer.fit(classifier(warmup_fraction=0.2), task_data(glue, tokenizer))
    expected = [0, 0.005, *(0.01 * (1 - part / 8) for part in range(8))]
    assert noted.learning_rates == pytest.approx(expected)


# ------------------------------------------------------------------------------ checkpoints


def test_a_checkpoint_is_plain_and_rebuilds_the_model(
    tmp_path: Path, glue: str, tokenizer: str
) -> None:
    data = task_data(glue, tokenizer)
    model, path = fitted(tmp_path, data)
    stored = torch.load(path, weights_only=True)[CHECKPOINT_KEY]
    assert stored["class"] == "TextClassifier"
    assert stored["schema"]["labels"] == ["entailment", "not_entailment"]
    assert stored["tokenizer_json"] == data.tokenizer_json
    assert stored["special_token_ids"] == data.special_token_ids
    loaded = TextClassifier.load_from_checkpoint(path)
    assert torch.equal(weights(loaded), weights(model))
    assert loaded.class_names == ("entailment", "not_entailment")
    assert loaded.vocabulary == model.vocabulary
    assert torch.equal(loaded.eval().logits(one(data)), model.eval().logits(one(data)))


def test_its_body_carries_on_to_another_task(tmp_path: Path, glue: str, tokenizer: str) -> None:
    model, path = fitted(tmp_path, task_data(glue, tokenizer, "mnli"), 3)
    follower = classifier(1, body=path)
    assert torch.equal(weights(follower.network.bert), weights(model.network.bert))
    assert follower.network.classifier.weight.shape == (1, 8)
    data = task_data(glue, path, "stsb")  # the tokenizer of the checkpoint
    make_trainer(1).fit(follower, data)
    assert data.vocabulary == task_data(glue, tokenizer).vocabulary


def test_the_data_take_the_tokenizer_of_the_body(tmp_path: Path, glue: str, tokenizer: str) -> None:
    _, path = fitted(tmp_path, task_data(glue, tokenizer))
    data = task_data(glue, None)
    make_trainer(1).fit(classifier(body=path), data)
    assert data.tokenizer_json == task_data(glue, tokenizer).tokenizer_json


class SaveAt(Callback):
    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def test_a_resumed_run_ends_at_the_same_weights(tmp_path: Path, glue: str, tokenizer: str) -> None:
    path = tmp_path / "middle.ckpt"
    straight, resumed = classifier(dropout=True), classifier(dropout=True)
    settings = {"micro_batch_size": 4}
    trainer = make_trainer(7, callbacks=[SaveAt(path, 3)])
    trainer.fit(straight, task_data(glue, tokenizer, **settings))
    make_trainer(7).fit(resumed, task_data(glue, tokenizer, **settings), ckpt_path=path)
    assert torch.equal(weights(resumed), weights(straight))


def test_accumulation_does_not_change_a_step(glue: str, tokenizer: str) -> None:
    runs = []
    for micro in (12, 3):
        model = classifier()
        make_trainer(4).fit(model, task_data(glue, tokenizer, micro_batch_size=micro))
        runs.append(weights(model))
    torch.testing.assert_close(*runs, rtol=1e-4, atol=1e-5)  # sums in another order


# ------------------------------------------------------------------------------ distillation


def test_a_fine_tuned_checkpoint_is_a_teacher(tmp_path: Path, glue: str, tokenizer: str) -> None:
    data = task_data(glue, tokenizer)
    model, path = fitted(tmp_path, data)
    teacher = load_teacher(path)
    teacher.place("cpu")
    assert torch.equal(teacher.logits(one(data)), model.eval().logits(one(data)))
    student, callback = classifier(seed=1), DistillationCallback([path])
    trainer = make_trainer(4, callbacks=[callback], log_every_n_steps=1)
    trainer.fit(student, data)
    assert trainer.callback_metrics["train/distillation_loss"] > 0
    assert "train/agreement" in trainer.callback_metrics


def test_so_is_a_folder_of_transformers(tmp_path: Path, glue: str, tokenizer: str) -> None:
    data, model = task_data(glue, tokenizer), classifier()
    nn.init.normal_(model.network.classifier.weight)
    model.network.save_pretrained(tmp_path)
    data.tokenizer.save_pretrained(tmp_path)
    known = load_teacher(str(tmp_path)).schema.input_vocabulary
    assert known == fitted(tmp_path, data)[0].schema().input_vocabulary is not None
    callback = DistillationCallback([str(tmp_path)])
    trainer = make_trainer(2, callbacks=[callback], log_every_n_steps=1)
    trainer.fit(classifier(seed=1), data)
    assert trainer.callback_metrics["train/distillation_loss"] > 0


def test_teachers_that_do_not_fit_are_refused(tmp_path: Path, glue: str, tokenizer: str) -> None:
    data = task_data(glue, tokenizer)
    stored = torch.load(fitted(tmp_path, data)[1], weights_only=True)
    stored[CHECKPOINT_KEY]["schema"]["input_vocabulary"] = "another"
    torch.save(stored, tmp_path / "other.ckpt")
    stored[CHECKPOINT_KEY]["schema"] |= {"input_vocabulary": None}
    stored[CHECKPOINT_KEY]["schema"]["labels"].reverse()
    torch.save(stored, tmp_path / "reversed.ckpt")
    fitted(tmp_path / "mnli", task_data(glue, tokenizer, "mnli"), 3)
    for path, message in (
        ("mnli/end.ckpt", r"another number of columns .*found 3; accepted: 2"),
        ("other.ckpt", "the teacher reads another vocabulary than the student"),
        ("reversed.ckpt", "class names are in another order"),
    ):
        callback = DistillationCallback([str(tmp_path / path)])
        with pytest.raises(InputError, match=rf"teachers\[0\]: .*{message}"):
            make_trainer(2, callbacks=[callback]).fit(classifier(), data)


# ------------------------------------------------------------------------------ bad input


def test_data_that_do_not_fit_are_refused(tmp_path: Path, glue: str, tokenizer: str) -> None:
    narrow = {**classifier().hparams.body, "vocab_size": 40}
    for model, data, message in (
        (classifier(3), task_data(glue, tokenizer), r"num_classes: .*found 3; accepted: 2"),
        (classifier(), task_data(glue, tokenizer, "stsb"), r"num_classes: .*found 2; accepted: 1"),
        (
            classifier(class_names=["not_entailment", "entailment"]),
            task_data(glue, tokenizer),
            r"class_names: differ from the data's class names, or are in another order",
        ),
        (
            classifier(),
            task_data(glue, tokenizer, max_length=65),
            r"data\.max_length: .*found 65; accepted: at most 64",
        ),
        (
            classifier(body=narrow),
            task_data(glue, tokenizer),
            r"model\.body: the network's vocabulary is smaller than the tokenizer's; found '40",
        ),
        (classifier(), task_data(glue, None), r"data\.tokenizer: the model carries no tokenizer"),
    ):
        with pytest.raises(InputError, match=message):
            make_trainer(2).fit(model, data)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_dropout_out_of_range_is_refused(dropout: float) -> None:
    with pytest.raises(InputError, match=rf"model\.dropout: out of range; found {dropout}; accept"):
        TextClassifier("mini", dropout=dropout)
    assert TextClassifier("mini", dropout=0.25).network.config.hidden_dropout_prob == 0.25


def test_a_body_of_another_vocabulary_is_refused(tmp_path: Path, glue: str, tokenizer: str) -> None:
    language = language_model(network={"max_position_embeddings": 64})
    trainer = make_trainer(1)
    trainer.fit(language, TextData())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    model = classifier(body=str(tmp_path / "end.ckpt"))
    with pytest.raises(InputError, match=r"model\.body: .* smaller than the tokenizer's"):
        make_trainer(1).fit(model, task_data(glue, tokenizer))


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
def test_foreign_batches_that_do_not_fit_are_refused() -> None:
    bad: list[tuple[Any, str]] = [
        (
            {"input_ids": torch.full((1, 3), 128), "labels": torch.zeros(1).long()},
            "found 128; .* 128",
        ),
        ((torch.zeros(1, 3).long(), torch.zeros(1).long()), "needs input_ids .*; found 'list'"),
        ({"input_ids": torch.zeros(1, 3).long()}, "needs labels .*; found 'input_ids'"),
    ]
    for batch, message in bad:
        loader: DataLoader[Any] = DataLoader([batch], batch_size=None)
        with pytest.raises(InputError, match=message):
            make_trainer(1).fit(classifier(), loader, loader)
