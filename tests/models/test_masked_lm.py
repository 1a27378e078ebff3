from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.distillation.losses import kl_divergence
from rrr_lightning.errors import InputError
from rrr_lightning.models.masked_lm import EXPECTED_ROWS, MaskedLanguageModel
from rrr_lightning.models.student import CHECKPOINT_KEY
from rrr_lightning.teachers import load_teacher
from rrr_lightning.tokens import Vocabulary
from tests.models.texts import (
    ROUNDING,
    TOKENS,
    Gradients,
    TextData,
    batch,
    language_model,
    sample,
)
from tests.models.tiny import Outputs, Steps, make_trainer, weights

WIDE = {"vocabulary_size": 32}  # the reference has no columns to spare


def reference(model: MaskedLanguageModel) -> Any:
    """transformers' own network with the same weights, which computes the logits of all tokens."""
    inner: Any = model.network.network
    network = transformers.BertForMaskedLM(inner.config)
    network.load_state_dict(inner.state_dict())
    return network


def gradient(network: nn.Module) -> Tensor:
    return torch.cat([each.grad.flatten() for each in network.parameters()])  # type: ignore[union-attr]


def one_step(model: MaskedLanguageModel, given: dict[str, Tensor], *callbacks: Callback) -> Any:
    trainer = make_trainer(1, callbacks=list(callbacks), log_every_n_steps=1)
    loader: DataLoader[Any] = DataLoader([given], batch_size=None)  # type: ignore[arg-type]
    trainer.fit(model, loader, loader)
    return trainer


ONE_BATCH = pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")


@ONE_BATCH
@pytest.mark.parametrize("unmasked", [[], [0], [0, 2]])
def test_loss_and_gradient_are_those_of_all_logits(unmasked: list[int]) -> None:
    given = batch()
    given["labels"][unmasked] = -100
    model = language_model(**WIDE)
    network = reference(model)
    expected = network(**given).loss
    expected.backward()
    noted = Gradients()
    trainer = one_step(model, given, noted)
    torch.testing.assert_close(trainer.callback_metrics["train/loss"], expected, **ROUNDING)
    torch.testing.assert_close(noted.noted[0], gradient(network), rtol=1e-4, atol=1e-6)


@ONE_BATCH
def test_without_any_masked_token_nothing_is_learned_and_nothing_is_nan() -> None:
    given = batch()
    given["labels"].fill_(-100)
    noted = Gradients()
    trainer = one_step(language_model(**WIDE), given, noted)
    assert noted.noted[0].abs().sum() == 0
    assert "train/loss" not in trainer.callback_metrics
    loss = language_model(**WIDE).training_step(given, 0)
    assert loss == 0
    assert loss.requires_grad


@ONE_BATCH
def test_the_head_sees_masked_tokens_only() -> None:
    given = batch()
    count = int((given["labels"] != -100).sum())
    rows, head = Outputs("network"), Outputs("network.network.cls")
    one_step(language_model(**WIDE), given, rows, head)
    assert [tuple(each.shape) for each in rows.seen] == [(count, 32)]
    assert [each.shape[1] for each in head.seen] == [count]


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_the_returned_loss_is_the_sum_over_a_constant() -> None:
    model, given = language_model(**WIDE).eval(), batch()
    count = int((given["labels"] != -100).sum())
    loss = model.training_step(given, 0) * EXPECTED_ROWS / count
    torch.testing.assert_close(loss, reference(model).eval()(**given).loss, **ROUNDING)


@ONE_BATCH
def test_a_distilled_step_logs_means_per_row() -> None:
    model, teacher, given = language_model(**WIDE), language_model(seed=7, **WIDE), batch()
    mean = kl_divergence(model.logits(given), teacher.logits(given), temperature=4.0).detach()
    metrics = one_step(model, given, DistillationCallback([teacher])).callback_metrics
    torch.testing.assert_close(metrics["train/task_loss"], metrics["train/loss"], **ROUNDING)
    torch.testing.assert_close(metrics["train/distillation_loss"], mean, **ROUNDING)


def test_evaluation_is_a_mean_over_all_masked_tokens() -> None:
    model, data = language_model(), TextData(eval_batch_size=3)
    metrics = make_trainer(limit_val_batches=1.0).validate(model, data, verbose=False)[0]
    given = data.sets[1][[(0, index) for index in range(10)]]
    targets = given["labels"][given["labels"] != -100]
    logits = model.logits(given)
    loss = nn.functional.cross_entropy(logits, targets).item()
    right = (logits.argmax(dim=1) == targets).float().mean().item()
    expected = {"val/loss": loss, "val/accuracy": right, "val/perplexity": math.exp(loss)}
    assert metrics == pytest.approx(expected, rel=1e-5)


class Leave(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        torch.save(metrics, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


@pytest.mark.ddp
def test_evaluation_is_exact_over_ranks(tmp_path: Path) -> None:
    for devices in ({}, {"devices": 2, "strategy": "ddp_fork"}):
        trainer = make_trainer(callbacks=[Leave(tmp_path)], limit_val_batches=1.0, **devices)
        trainer.validate(language_model(), TextData(eval_batch_size=3), verbose=False)
    alone, *ranks = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    for rank in ranks:
        assert rank == pytest.approx(alone, rel=1e-5)


# ------------------------------------------------------------------------------ construction


def test_initial_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(1)
    one = weights(language_model())
    torch.manual_seed(2)
    assert torch.equal(one, weights(language_model()))
    assert not torch.equal(one, weights(language_model(seed=1)))


def test_embedding_and_head_are_one_and_attention_is_fused() -> None:
    inner: Any = language_model().network.network
    assert inner.get_input_embeddings().weight is inner.get_output_embeddings().weight
    assert inner.config._attn_implementation == "sdpa"


def test_padding_changes_columns_but_neither_rows_nor_losses() -> None:
    plain, padded = language_model(), language_model(pad_vocabulary_to=64)
    inner: Any = padded.network.network
    assert inner.get_input_embeddings().weight.shape == (64, 8)
    assert padded.schema().columns == plain.schema().columns == 30
    state = {
        name: nn.functional.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, 34))
        if tensor.shape[:1] == (30,)
        else tensor
        for name, tensor in plain.state_dict().items()
    }
    padded.load_state_dict(state)
    given = batch()
    given["input_ids"].clamp_(max=29)
    given["labels"].clamp_(max=29)
    torch.testing.assert_close(plain.eval().logits(given), padded.eval().logits(given), **ROUNDING)


def test_the_recipe_is_the_default() -> None:
    model = MaskedLanguageModel("mini", 100)
    assert (model.warmup_fraction, model.learning_rate, model.betas) == (0.06, 5e-4, (0.9, 0.98))
    optimizer = model.default_optimizer(model.parameter_groups())
    (group,) = optimizer.param_groups
    assert (group["weight_decay"], group["eps"]) == (0.02, 1e-6)
    assert [model.decay(progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([1, 0.51, 0.02])
    assert MaskedLanguageModel("mini", 100, warmup_steps=0).warmup_fraction is None


def test_the_learning_rate_warms_up_and_goes_down() -> None:
    noted = Steps()
    trainer = make_trainer(10, callbacks=[noted])
    trainer.fit(language_model(warmup_fraction=0.2), TextData())
    expected = [0, 0.005, *(0.01 * (1 - 0.98 * part / 8) for part in range(8))]
    assert noted.learning_rates == pytest.approx(expected)


def test_vectors_can_be_left_out_of_the_decay() -> None:
    model = language_model(decay_vectors=False)
    optimizer = model.default_optimizer(model.parameter_groups())
    decayed, spared = optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.02, 0.0)
    assert {each.ndim for each in decayed["params"]} == {2}
    assert {each.ndim for each in spared["params"]} == {1}
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


# ------------------------------------------------------------------------------ checkpoints


def fitted(folder: Path, **arguments: Any) -> tuple[MaskedLanguageModel, Path]:
    model = language_model(**arguments)
    trainer = make_trainer(2)
    trainer.fit(model, TextData())
    trainer.save_checkpoint(folder / "end.ckpt")
    return model, folder / "end.ckpt"


def test_a_checkpoint_is_plain_and_rebuilds_the_model(tmp_path: Path) -> None:
    model, path = fitted(tmp_path, dropout=True, pad_vocabulary_to=64)
    stored = torch.load(path, weights_only=True)[CHECKPOINT_KEY]
    assert stored["class"] == "MaskedLanguageModel"
    assert stored["schema"]["labels"] == TOKENS
    assert stored["schema"]["special_token_ids"] == {"pad_token": 0, "mask_token": 4}
    assert stored["tokenizer_json"] == "{}"
    loaded = MaskedLanguageModel.load_from_checkpoint(path)
    assert torch.equal(weights(loaded), weights(model))
    assert loaded.vocabulary == model.vocabulary == Vocabulary.of_data(TextData())
    given = {name: tensor[None] for name, tensor in sample(0, 1).items()}
    assert torch.equal(loaded.eval().logits(given), model.eval().logits(given))


def test_a_checkpoint_is_a_teacher(tmp_path: Path) -> None:
    model, path = fitted(tmp_path, pad_vocabulary_to=64)
    teacher = load_teacher(str(path))
    assert teacher.schema.labels == tuple(TOKENS)
    teacher.place("cpu")
    given = {name: tensor[None] for name, tensor in sample(0, 1).items()}
    assert torch.equal(teacher.logits(given), model.eval().logits(given))
    callback = DistillationCallback([str(path)])
    trainer = make_trainer(2, callbacks=[callback], log_every_n_steps=1)
    trainer.fit(language_model(network={"num_hidden_layers": 1}), TextData())
    assert trainer.callback_metrics["train/distillation_weight"] > 0


def test_a_teacher_of_another_vocabulary_of_the_same_size_is_refused(tmp_path: Path) -> None:
    _, path = fitted(tmp_path)
    swapped = [*TOKENS[:10], TOKENS[11], TOKENS[10], *TOKENS[12:]]
    trainer = make_trainer(2, callbacks=[DistillationCallback([str(path)])])
    with pytest.raises(InputError, match=r"teachers\[0\]: .*another vocabulary of the same size"):
        trainer.fit(language_model(), TextData(swapped))


def test_a_resumed_run_keeps_its_vocabulary(tmp_path: Path) -> None:
    _, path = fitted(tmp_path)
    swapped = [*TOKENS[:10], TOKENS[11], TOKENS[10], *TOKENS[12:]]
    with pytest.raises(InputError, match=r"data: .* 2 tokens differ, the first with id 10"):
        make_trainer(4).fit(language_model(), TextData(swapped), ckpt_path=path)


class SaveAt(Callback):
    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def test_a_resumed_run_ends_at_the_same_weights(tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    straight, resumed = language_model(dropout=True), language_model(dropout=True)
    data = {"micro_batch_size": 4}
    make_trainer(5, callbacks=[SaveAt(path, 2)]).fit(straight, TextData(**data))
    make_trainer(5).fit(resumed, TextData(**data), ckpt_path=path)
    assert torch.equal(weights(resumed), weights(straight))


# ------------------------------------------------------------------------------ bad input


class LongTexts(TextData):
    sequence_length = 21


class MoreTokens(TextData):
    vocabulary_size = 31


class OtherPadding(TextData):
    def __init__(self) -> None:
        super().__init__()
        self.special_token_ids = {"pad_token": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (LongTexts, r"data.sequence_length: .*found 21; accepted: at most 20"),
        (MoreTokens, r"model.vocabulary_size: .*found 30; accepted: 31"),
        (OtherPadding, r"model.network.pad_token_id: .*found 0; accepted: 1"),
    ],
)
def test_data_that_do_not_fit_are_refused(data: type[TextData], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_trainer(2).fit(language_model(), data())


@ONE_BATCH
def test_a_token_out_of_the_vocabulary_is_refused() -> None:
    for name in ("input_ids", "labels"):
        given = {key: tensor.clamp(max=29) for key, tensor in batch().items()}
        given[name][0, 0] = 31
        with pytest.raises(InputError, match=r"model.vocabulary_size: .*found 31; .*below 30"):
            one_step(language_model(), given)


@ONE_BATCH
def test_batches_of_another_kind_are_refused() -> None:
    for given in ({"input_ids": batch()["input_ids"]}, [batch()["input_ids"]]):
        with pytest.raises(InputError, match="needs to know which tokens are masked"):
            one_step(language_model(), given)  # type: ignore[arg-type]


@ONE_BATCH
def test_sequences_of_a_foreign_loader_may_be_too_long_too() -> None:
    given = {"input_ids": torch.full((1, 21), 5), "labels": torch.full((1, 21), -100)}
    with pytest.raises(InputError, match="longer than the network's positions; found 21"):
        one_step(language_model(), given)
