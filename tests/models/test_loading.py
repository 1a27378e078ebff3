from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rrr_lightning.errors import InputError
from rrr_lightning.models.loading import load_checkpoint, load_exported
from rrr_lightning.models.masked_lm import MaskedLanguageModel
from tests.models.texts import TextData, language_model
from tests.models.tiny import classifier, make_trainer, weights

KEY = "distillation.teachers[0]"


def test_a_checkpoint_gives_back_network_and_vocabulary(tmp_path: Path) -> None:
    model, trainer = language_model(), make_trainer(1)
    trainer.fit(model, TextData())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    loaded = load_checkpoint(tmp_path / "end.ckpt", KEY)
    assert isinstance(loaded.network, MaskedLanguageModel)
    assert loaded.network.vocabulary == model.vocabulary
    assert loaded.schema == model.schema()
    assert torch.equal(weights(loaded.network), weights(model))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = classifier("cifar_resnet8", channels_last=False)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "student.json").write_text(json.dumps(model.describe()))
    return tmp_path


def test_an_exported_folder_gives_back_the_network(folder: Path) -> None:
    loaded = load_exported(folder, KEY)
    assert torch.equal(weights(loaded.network), weights(classifier("cifar_resnet8")))
    assert loaded.schema.columns == 4


def test_damaged_folders_are_refused(folder: Path) -> None:
    described: dict[str, Any] = json.loads((folder / "student.json").read_text())
    foreign = {"class_path": "subprocess.Popen", "init_args": {"args": "true"}}
    for content, message in (
        ("{", "student.json is damaged"),
        ("[]", "does not say which network"),
        ({"arguments": {}}, "a module of an unknown class; found 'None'"),
        (described | {"class": "Popen"}, "unknown class; found 'Popen'; accepted: ImageClassifier"),
        (
            described | {"arguments": {"network": foreign}},
            "names a class that is not imported for a file",
        ),
        (described | {"arguments": {"depth": 3}}, "holds an unknown argument; found .depth."),
        (described | {"arguments": {"network": "cifar_resnet14"}}, "the weights do not fit"),
    ):
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "student.json").write_text(text)
        with pytest.raises(InputError, match=message) as caught:
            load_exported(folder, KEY)
        assert str(caught.value).startswith(KEY)
    (folder / "student.json").write_text(json.dumps(described))
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no such weight file"):
        load_exported(folder, KEY)
