from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from rrr_lightning.callbacks.cost_ledger import CostLedger
from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.commands import COMMANDS, run
from rrr_lightning.commands import main as rrr
from rrr_lightning.errors import InputError
from rrr_lightning.export import export_checkpoint
from rrr_lightning.glue.fine_tune import fine_tune
from rrr_lightning.glue.plan import PREDICTIONS
from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.models.masked_lm import MaskedLanguageModel
from rrr_lightning.teachers import load_teacher
from tests.data.glue_files import write_parquet
from tests.glue.tiny import config_of
from tests.models.texts import TOKENS, TextData, batch, language_model
from tests.models.tiny import Data, Smooth, classifier, make_trainer, pixels

EXACT = {"rtol": 0.0, "atol": 1e-5}


class WithTokenizer(TextData):
    """Text data with a real tokenizer."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        (folder / "vocab.txt").write_text("\n".join(TOKENS))
        tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"))
        self.tokenizer_json = tokenizer.backend_tokenizer.to_str()
        self.special_token_ids = {
            name: tokenizer.convert_tokens_to_ids(token)
            for name, token in tokenizer.special_tokens_map.items()
        }


def given() -> dict[str, Any]:
    return {name: tensor.clamp(max=29) for name, tensor in batch().items()}


@pytest.fixture
def text_checkpoint(tmp_path: Path) -> tuple[MaskedLanguageModel, Path]:
    model = language_model(pad_vocabulary_to=64, dropout=True)
    callback = DistillationCallback([language_model(seed=7)])
    trainer = make_trainer(2, callbacks=[callback])
    trainer.fit(model, WithTokenizer(tmp_path))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return model.eval(), tmp_path / "last.ckpt"


@pytest.fixture
def image_checkpoint(tmp_path: Path) -> tuple[ImageClassifier, Path]:
    model = classifier(class_names=list("abcd"))
    trainer = make_trainer(2)
    trainer.fit(model, datamodule=Data())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return model.eval(), tmp_path / "last.ckpt"


def test_a_text_student_becomes_a_hugging_face_folder(
    text_checkpoint: tuple[MaskedLanguageModel, Path], tmp_path: Path
) -> None:
    model, path = text_checkpoint
    folder = export_checkpoint(path, tmp_path / "deep" / "bert")
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= {
        file.name for file in folder.iterdir()
    }
    network = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1
    masked = given()["labels"] != -100
    logits = network(given()["input_ids"], given()["attention_mask"]).logits
    assert logits.shape[2] == 30  # the padding is gone
    torch.testing.assert_close(logits[masked], model.logits(given()), **EXACT)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer("w3 [MASK] w1")["input_ids"] == [2, 8, 4, 6, 3]
    assert (tokenizer.mask_token_id, tokenizer.model_max_length) == (4, 20)
    assert tokenizer("w3", "w1")["token_type_ids"] == [0, 0, 0, 1, 1]


def test_the_card_knows_data_and_teachers(
    text_checkpoint: tuple[MaskedLanguageModel, Path], tmp_path: Path
) -> None:
    card = (export_checkpoint(text_checkpoint[1], tmp_path / "bert") / "README.md").read_text()
    for said in (
        "# bert\n",
        "2 optimizer steps",
        "class: WithTokenizer",
        "- MaskedLanguageModel obj",
    ):
        assert said in card


def test_an_exported_text_student_is_a_teacher_and_a_start(
    text_checkpoint: tuple[MaskedLanguageModel, Path], tmp_path: Path
) -> None:
    model, path = text_checkpoint
    folder = str(export_checkpoint(path, tmp_path / "bert"))
    teacher = load_teacher(folder)
    assert teacher.schema.labels == tuple(TOKENS)
    torch.testing.assert_close(
        teacher.network.eval().logits(given()), model.logits(given()), **EXACT
    )  # type: ignore[operator]
    again = MaskedLanguageModel(folder, pretrained=True)
    assert again.vocabulary is not None
    assert again.vocabulary.special_token_ids == model.vocabulary.special_token_ids  # type: ignore[union-attr]
    torch.testing.assert_close(again.eval().logits(given()), model.logits(given()), **EXACT)


def test_an_exported_text_student_is_judged_on_glue_as_its_checkpoint(tmp_path: Path) -> None:
    trainer = make_trainer(2)
    trainer.fit(language_model(), WithTokenizer(tmp_path))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    exported = export_checkpoint(tmp_path / "last.ckpt", tmp_path / "bert")
    data = str(write_parquet(tmp_path / "glue", "rte", train=16, other=8))
    predicted = []
    for judged in (tmp_path / "last.ckpt", exported):
        folder = tmp_path / f"{judged.name} on rte"
        folder.mkdir()
        fine_tune(config_of(str(judged), data, max_steps=2, max_length=20), folder)
        with np.load(folder / PREDICTIONS) as arrays:
            predicted.append({name: arrays[name] for name in arrays.files})
    assert predicted[0].keys() == predicted[1].keys()
    assert all(np.array_equal(predicted[0][name], predicted[1][name]) for name in predicted[0])


def test_an_image_student_says_how_it_is_rebuilt(
    image_checkpoint: tuple[ImageClassifier, Path], tmp_path: Path
) -> None:
    model, path = image_checkpoint
    folder = export_checkpoint(path, tmp_path / "small")
    described = json.loads((folder / "student.json").read_text())
    rebuilt = ImageClassifier(**described["arguments"])
    rebuilt.load_state_dict(load_file(folder / "model.safetensors"))
    images, _ = pixels(4)
    torch.testing.assert_close(rebuilt.eval()(images), model(images), **EXACT)
    teacher = load_teacher(str(folder))
    assert teacher.schema.labels == tuple("abcd")
    assert teacher.schema.normalization == model.normalization
    torch.testing.assert_close(teacher.network.eval()(images), model(images), **EXACT)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_the_ledger_goes_along(kind: str, tmp_path: Path) -> None:
    student: Any = language_model() if kind == "text" else classifier()
    trainer = make_trainer(2, callbacks=[CostLedger()], default_root_dir=tmp_path / "run")
    trainer.fit(student, WithTokenizer(tmp_path) if kind == "text" else Data())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    folder = export_checkpoint(tmp_path / "last.ckpt", tmp_path / "exported")
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert load_teacher(str(folder)).ledger == ledger
    assert json.loads((folder / "ledger.json").read_text()) == ledger
    assert "## Cost\n" in (folder / "README.md").read_text()


def test_a_checkpoint_without_tokenizer_gives_a_folder_without(tmp_path: Path) -> None:
    trainer, model = make_trainer(1), language_model()
    data = TextData().train_dataloader()
    trainer.fit(model, data, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    folder = export_checkpoint(tmp_path / "last.ckpt", tmp_path / "bert")
    assert (folder / "config.json").is_file()
    assert not (folder / "tokenizer.json").exists()


def test_a_folder_in_use_is_left_alone(
    image_checkpoint: tuple[ImageClassifier, Path], tmp_path: Path
) -> None:
    _, path = image_checkpoint
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (export_checkpoint(path, empty) / "student.json").is_file()
    for target in (empty, path):
        with pytest.raises(InputError, match=r"--to: exists already; .*accepted: a new or empty"):
            export_checkpoint(path, target)


@pytest.mark.parametrize("value", [torch.zeros(2), {"a": torch.zeros(1)}, {1, 2}, 10**400])
def test_a_checkpoint_that_describes_itself_oddly_is_refused_in_one_line(
    value: object, image_checkpoint: tuple[ImageClassifier, Path], tmp_path: Path
) -> None:
    content = torch.load(image_checkpoint[1], weights_only=True)
    content["rrr_lightning"]["data"] = {"class": "X", "arguments": {"source": value}}
    odd = tmp_path / "odd.ckpt"
    torch.save(content, odd)
    if isinstance(value, int):  # a large number is a plain value
        export_checkpoint(odd, tmp_path / "small")
        return
    with pytest.raises(InputError) as refused:
        export_checkpoint(odd, tmp_path / "small")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.glob("*small*")] == []


def test_a_failure_leaves_nothing_behind(
    image_checkpoint: tuple[ImageClassifier, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = image_checkpoint
    leftover = tmp_path / ".small.part"
    leftover.mkdir()
    (leftover / "of_a_killed_run").touch()

    def fail(*_: Any) -> str:
        raise RuntimeError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("rrr_lightning.export.add_checksum", fail)
        with pytest.raises(RuntimeError, match="disk full"):
            export_checkpoint(path, tmp_path / "small")
    assert not leftover.exists()
    assert not (tmp_path / "small").exists()
    folder = export_checkpoint(path, tmp_path / "small")
    assert {file.name for file in folder.iterdir()} == {
        "README.md",
        "model.safetensors",
        "student.json",
    }


def test_the_command_says_where_or_why_not(
    image_checkpoint: tuple[ImageClassifier, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, path = image_checkpoint
    arguments = ["--checkpoint", str(path), "--to", str(tmp_path / "small")]
    monkeypatch.setattr("sys.argv", ["rrr", "export", *arguments])
    rrr()
    assert capsys.readouterr().out == f"exported to {tmp_path / 'small'}\n"
    around_object = tmp_path / "object.ckpt"
    trainer, model = make_trainer(1), ImageClassifier(Smooth(), 4, learning_rate=0.1)
    trainer.fit(model, datamodule=Data())
    trainer.save_checkpoint(around_object)
    capsys.readouterr()
    for wrong, message in (
        (arguments, "--to: exists already"),
        (arguments[:2], "the following arguments are required: --to"),
        (["--checkpoint", str(tmp_path / "no.ckpt"), *arguments[2:3], str(tmp_path / "x")],
         "--checkpoint: no such weight file"),
        (["--checkpoint", str(around_object), *arguments[2:3], str(tmp_path / "x")],
         "--checkpoint: .*around a network object"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as caught:
            run(partial(COMMANDS["export"].run, wrong))
        line = capsys.readouterr().err
        assert caught.value.code == 2
        assert line.startswith("rrr: error: ")
        assert line.count("\n") == 1
        assert re.search(message, line)
    assert not (tmp_path / "x").exists()
