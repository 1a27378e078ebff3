"""Runs of one seed are paired in fact: equal weights at the start, equal batches at every step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from rrr_lightning.study.config import make_study
from rrr_lightning.study.plan import make_plan
from tests.cli_runs import Command
from tests.data.text_toy import write_corpus
from tests.study.studies import content

QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "max_steps": 5,
    "logger": False,
    "limit_val_batches": 0,
    "callbacks": [{"class_path": "tests.study.test_plan_pairs.SeeBatches"}],
}
IMAGES = {
    "trainer": QUIET,
    "model": {
        "class_path": "ImageClassifier",
        "init_args": {
            "network": "cifar_resnet8",
            "num_classes": 2,
            "mixup_alpha": 0.2,
            "learning_rate": 0.1,
        },
    },
    "data": {
        "class_path": "ImageDataModule",
        "init_args": {"transform": "cifar", "global_batch_size": 8, "num_workers": 0},
    },
}
BERT = {"model_type": "bert", "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}
TEXT = {
    "trainer": QUIET,
    "model": {
        "class_path": "MaskedLanguageModel",
        "init_args": {
            "network": {**BERT, "intermediate_size": 32, "max_position_embeddings": 16},
            "vocabulary_size": 76,  # of the few words of the corpus
            "learning_rate": 0.01,
        },
    },
    "data": {
        "class_path": "TextDataModule",
        "init_args": {"tokenizer": "train:300", "sequence_length": 16, "global_batch_size": 12},
    },
}


class SeeBatches(Callback):
    """Writes `seen.txt`: digests of the weights at the start and of every batch."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _note(trainer, list(pl_module.state_dict().values()))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        _note(trainer, batch.values() if isinstance(batch, Mapping) else batch)


def _note(trainer: Trainer, tensors: Any) -> None:
    content = b"".join(each.numpy().tobytes() for each in tensors if torch.is_tensor(each))
    path = Path(trainer.default_root_dir, "seen.txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(hashlib.sha256(content).hexdigest() + "\n")


def write_images(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(20):
            path = folder / split / ("cat", "dog")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 255, (32, 32, 3), np.uint8)).save(path)
    return folder


@pytest.mark.parametrize("kind", ["images", "text"])
def test_batches_and_weights_are_those_of_the_baseline(
    kind: str, rrr: Command, tmp_path: Path
) -> None:
    base, write = {"images": (IMAGES, write_images), "text": (TEXT, write_corpus)}[kind]
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    lesson = {
        "teachers": "twin",
        "loss": {"class_path": "KLDivergence"},
        "schedule": {"weight": 0.5, "until": 0.6},
    }
    study = make_study(
        content(
            base=str(tmp_path / "base.yaml"),
            teachers={"twin": {"steps": 2, "seeds": [8, 9]}},
            arms={
                "baseline": {},
                "taught": {
                    "overlay": {"distillation": lesson, "model.init_args.learning_rate": 0.02}
                },
            },
            durations=[2, 3, 4, 5],
            seeds=[1, 2],
        )
    )
    data = str(write(tmp_path / "data"))
    seen = {}
    for run in make_plan(study, tmp_path / "out", data):
        if run.role == "teacher" or run.steps == 5:
            file = tmp_path / f"{run.name}.yaml"
            file.write_text(yaml.safe_dump(run.config))
            rrr("fit", "--config", str(file))
            seen[run.name] = (run.folder / "seen.txt").read_text().split()
    for seed in (1, 2):
        assert len(seen[f"baseline-5-{seed}"]) == 1 + 5
        assert len(set(seen[f"baseline-5-{seed}"])) == 1 + 5
        assert seen[f"taught-5-{seed}"] == seen[f"baseline-5-{seed}"]
    assert not set(seen["baseline-5-1"]) & set(seen["baseline-5-2"])
