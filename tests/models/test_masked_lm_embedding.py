"""`MaskedLanguageModel` in other people's command lines, and on batches of their collators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.models.masked_lm import MaskedLanguageModel
from rrr_lightning.models.student import CHECKPOINT_KEY
from tests.models.test_image_classifier_embedding import DEPRECATED, TRAINER
from tests.models.texts import TOKENS, TextData, language_model
from tests.models.tiny import make_trainer, weights


def foreign_cli(patch: pytest.MonkeyPatch, *arguments: str) -> LightningCLI:
    patch.setattr("sys.argv", ["train.py", "fit", *TRAINER, *arguments])
    return LightningCLI(
        MaskedLanguageModel,
        TextData,
        save_config_callback=None,
        auto_configure_optimizers=False,
        seed_everything_default=False,
    )


@pytest.mark.filterwarnings(DEPRECATED)
def test_the_command_line_takes_any_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = foreign_cli(
        monkeypatch,
        '--model.network={"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2}',
        "--model.network.num_hidden_layers=1",
        "--model.vocabulary_size=30",
        "--model.pad_vocabulary_to=64",
        "--model.betas=[0.8, 0.9]",
        "--model.warmup_steps=1",
    )
    assert cli.trainer.global_step == 2
    cli.trainer.save_checkpoint(tmp_path / "end.ckpt")
    stored = torch.load(tmp_path / "end.ckpt", weights_only=True)
    assert stored[CHECKPOINT_KEY]["training"]["betas"] == (0.8, 0.9)
    assert stored[CHECKPOINT_KEY]["data"]["class"] == "TextData"
    loaded = MaskedLanguageModel.load_from_checkpoint(tmp_path / "end.ckpt")
    assert torch.equal(weights(loaded), weights(cli.model))
    assert loaded.vocabulary == cli.model.vocabulary
    assert (loaded.vocabulary_size, loaded.network.network.config.vocab_size) == (30, 64)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS))
    return transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"))


def collated(tokenizer: Any) -> DataLoader[Any]:
    lines = [" ".join(f"w{(start + i) % 20}" for i in range(1 + start % 9)) for start in range(24)]
    collate = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)
    samples: Any = [tokenizer(line) for line in lines]
    return DataLoader(samples, batch_size=4, collate_fn=collate)


def test_batches_of_a_collator_train_and_distil(tokenizer: Any) -> None:
    model, teacher = language_model(tokenizer=tokenizer), language_model(seed=7)
    loader = collated(tokenizer)
    assert "token_type_ids" in next(iter(loader))
    callback = DistillationCallback([teacher])
    trainer = make_trainer(8, callbacks=[callback], limit_val_batches=1.0, log_every_n_steps=1)
    trainer.fit(model, loader, loader)
    logged = {"train/loss", "train/distillation_loss", "val/loss", "val/accuracy", "val/perplexity"}
    assert logged <= set(trainer.callback_metrics)
    assert model.vocabulary is not None
    assert model.vocabulary.tokens == tuple(TOKENS)


def test_a_network_of_another_family_trains_too(tokenizer: Any) -> None:
    distil = {"model_type": "distilbert", "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
    model = MaskedLanguageModel(distil, tokenizer=tokenizer, pad_vocabulary_to=64, seed=0)
    before = weights(model)
    loader = collated(tokenizer)
    make_trainer(4).fit(model, loader, loader)
    assert torch.isfinite(weights(model)).all()
    assert not torch.equal(weights(model), before)
