from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rrr_lightning.data.images import ImageDataModule
from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.predictions import PredictionsFile
from tests.cli_runs import TINY, Command
from tests.data.conftest import cifar as cifar
from tests.data.test_image_sources import make_folder
from tests.data.toy import make_trainer

COMMON = tuple(each for each in TINY if "num_classes" not in each and "--data" not in each)
DATA = ("--data=ImageDataModule", "--data.source=pets", "--data.global_batch_size=2")
SIZES = ("--data.crop_size=8", "--data.resize_size=8", "--data.num_workers=0")
ARGUMENTS = (*COMMON, "--model.num_classes=2", *DATA, *SIZES, "--trainer.default_root_dir=run")


def read(path: str | Path) -> list[dict[str, str]]:
    with Path(path).open(errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def make_pets(root: Path) -> None:
    names = [f"{split}/{kind}/{n}.png" for split in ("train", "val") for kind in "xy" for n in "12"]
    make_folder(root, *names)


def test_rrr_predict_leaves_a_file_in_the_run_folder(
    rrr: Command, caplog: pytest.LogCaptureFixture
) -> None:
    make_pets(Path("pets"))
    odd = os.fsdecode(b"caf\xe9.png")
    make_folder(Path("new"), "b.png", "a/1.jpg", odd)
    Image.new("RGB", (8, 8), (255, 0, 0)).save("new/b.png")
    rrr("fit", *ARGUMENTS, "--trainer.max_steps=2")
    rrr("predict", *ARGUMENTS, "--ckpt_path=last", "--data.predict_source=new")
    rows = read("run/predictions.csv")
    assert [row["image"] for row in rows] == ["a/1.jpg", "b.png", odd]
    for row in rows:
        assert {row["class"], row["class_2"]} == {"x", "y"}
        assert float(row["probability"]) >= float(row["probability_2"])
        assert float(row["probability"]) + float(row["probability_2"]) == pytest.approx(1, abs=1e-5)
    assert "3 predictions are in run/predictions.csv" in caplog.messages
    rrr("predict", *ARGUMENTS, "--ckpt_path=last")
    assert [row["image"] for row in read("run/predictions.csv")] == [
        f"{kind}/{number}.png" for kind in "xy" for number in (1, 2)
    ]
    assert not list(Path("run").glob(".*"))


def test_rows_hold_the_five_likeliest_of_many_classes(tmp_path: Path, cifar: Path) -> None:
    settings: dict[str, Any] = {"transform": "cifar", "eval_batch_size": 7}
    data = ImageDataModule(str(cifar), global_batch_size=8, **settings)
    module = ImageClassifier("cifar_resnet8", 10, seed=1)
    trainer = make_trainer(tmp_path, 1, callbacks=[PredictionsFile(tmp_path / "out")])
    expected = torch.cat([*trainer.predict(module, datamodule=data)])  # type: ignore[misc]
    rows = read(tmp_path / "out" / "predictions.csv")
    assert [row["image"] for row in rows] == [str(number) for number in range(60)]
    names = data.class_names
    assert names is not None
    for row, best in zip(rows, expected.topk(5, dim=1).indices.tolist(), strict=True):
        assert [row[f"class{end}"] for end in ("", "_2", "_3", "_4", "_5")] == [
            names[index] for index in best
        ]


def test_a_failed_prediction_leaves_the_former_file(tmp_path: Path) -> None:
    make_pets(tmp_path / "pets")
    (tmp_path / "predictions.csv").write_text("former")
    (tmp_path / "pets/val/y/2.png").write_bytes(b"broken")
    settings: dict[str, Any] = {"crop_size": 8, "resize_size": 8, "num_workers": 0}
    data = ImageDataModule(str(tmp_path / "pets"), global_batch_size=2, **settings)
    trainer = make_trainer(tmp_path, 1, callbacks=[PredictionsFile(tmp_path)])
    with pytest.raises(ValueError, match=r"y/2.png cannot be decoded"):
        trainer.predict(ImageClassifier("cifar_resnet8", 2), datamodule=data)
    assert (tmp_path / "predictions.csv").read_text() == "former"


@pytest.mark.ddp
def test_two_ranks_write_the_rows_of_one(tmp_path: Path, cifar: Path) -> None:
    text = []
    for ranks in (2, 1):
        settings: dict[str, Any] = {"transform": "cifar", "eval_batch_size": 7}
        data = ImageDataModule(str(cifar), global_batch_size=8, **settings)
        folder = tmp_path / str(ranks)
        strategy = {"devices": 2, "strategy": "ddp_fork"} if ranks == 2 else {}
        trainer = make_trainer(tmp_path, 1, callbacks=[PredictionsFile(folder)], **strategy)
        module = ImageClassifier("cifar_resnet8", 10, seed=1)
        trainer.predict(module, datamodule=data, return_predictions=False)
        text.append((folder / "predictions.csv").read_text())
    assert text[0] == text[1]


@pytest.mark.slow
def test_predictions_of_other_data_are_not_lost_in_silence(
    rrr: Command, caplog: pytest.LogCaptureFixture, rrr_data: Path
) -> None:
    shutil.copytree(rrr_data / "glue" / "rte", "glue/rte")
    shutil.copy("glue/rte/validation.parquet", "glue/rte/test.parquet")
    body = {"vocab_size": 30522, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    arguments = (
        "--model=TextClassifier",
        f"--model.body={json.dumps({'model_type': 'bert', **body})}",
        "--model.pretrained=false",
        "--data=GlueDataModule",
        "--data.task=rte",
        "--data.source=glue",
        f"--data.tokenizer={rrr_data / 'bert-base-uncased'}",
        "--trainer.max_steps=1",
        "--trainer.default_root_dir=run",
        *(each for each in TINY if each.startswith("--trainer")),
    )
    rrr("fit", *arguments)
    rrr("predict", *arguments, "--trainer.limit_predict_batches=1", "--ckpt_path=last")
    assert "no file is written" in caplog.text
    assert not Path("run", "predictions.csv").exists()
