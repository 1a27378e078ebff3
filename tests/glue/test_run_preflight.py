"""What is wrong with a checkpoint or its data is said before any job starts."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.errors import InputError
from rrr_lightning.glue.plan import CHECKPOINTS, Run
from rrr_lightning.glue.run import inspect_inputs
from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.tokens import load_fast_tokenizer
from tests.data.glue_files import write_parquet, write_tokenizer
from tests.glue.tiny import config_of, write_body
from tests.models.tiny import fit


def look(body: str, data: str, task: str = "rte", **changes: Any) -> Any:
    run = Run(task, 3, Path("nowhere"), config_of(body, data, task, **changes))
    return inspect_inputs([run], body)


def test_texts_and_labels_are_hashed(body: str, data: str) -> None:
    runs = [
        Run(task, 3, Path("x"), config_of("later.ckpt", data, task)) for task in ("rte", "mnli")
    ]
    state = torch.get_rng_state()
    seen = inspect_inputs(runs, body)
    assert set(seen) == {"rte", "mnli"}
    assert set(seen["mnli"]) == {"train", *TASKS["mnli"].validation_splits}
    assert torch.equal(torch.get_rng_state(), state)


def refused(message: str, body: str, data: str, task: str = "rte", **changes: Any) -> None:
    with pytest.raises(InputError, match=message):
        look(body, data, task, **changes)


def line_of(body: str, data: str) -> str:
    with pytest.raises(InputError) as refusal:
        look(body, data)
    return str(refusal.value)


def test_lines_about_a_checkpoint_name_what_the_command_accepts(
    data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = tmp_path / "text.ckpt"
    text.write_text("not a checkpoint")
    empty = tmp_path / "empty"
    empty.mkdir()
    bare = write_body(tmp_path / "bare", tokenizer=False)
    for body in (text, tmp_path / "none.ckpt", empty, bare):
        line = line_of(str(body), data)
        assert line.startswith("--checkpoint: ")
        assert line.endswith(f"; accepted: {CHECKPOINTS}")
        assert line.count("accepted") == 1
    assert line == f"--checkpoint: the checkpoint carries no tokenizer; accepted: {CHECKPOINTS}"
    assert not caplog.records
    small = write_body(tmp_path / "small", tokenizer=False, vocab_size=20)
    write_tokenizer(small)
    assert re.fullmatch(
        r"--checkpoint: the network's vocabulary is smaller than the tokenizer's; found '20 tokens'"
        r"; accepted: a network with at least \d+, or a tokenizer with at most 20",
        line_of(str(small), data),
    )


def test_what_is_no_checkpoint_of_a_text_model(data: str, tmp_path: Path) -> None:
    refused("--checkpoint: no such file or folder", str(tmp_path / "none.ckpt"), data)
    text = tmp_path / "text.ckpt"
    text.write_text("not a checkpoint")
    refused("--checkpoint: ", str(text), data)
    (tmp_path / "empty").mkdir()
    refused("--checkpoint: ", str(tmp_path / "empty"), data)
    image = tmp_path / "image.ckpt"
    trainer = fit(ImageClassifier("cifar_resnet8", 10, small_images=True, seed=0), steps=1)
    trainer.save_checkpoint(image, weights_only=True)
    refused(
        "--checkpoint: .*no checkpoint of a text model; found 'ImageClassifier'", str(image), data
    )


def test_a_path_that_is_not_there_may_be_meant_for_the_hub(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = line_of("runs/last", data)
    assert re.fullmatch(
        r"--checkpoint: runs/last is no file or folder here, and no model that the hub gives "
        r"\(.+\); accepted: .+",
        line,
    )
    assert line.endswith(CHECKPOINTS)


def test_a_missing_tokenizer(data: str, tmp_path: Path) -> None:
    folder = write_body(tmp_path / "bare", tokenizer=False)
    refused("--checkpoint: the checkpoint carries no tokenizer", str(folder), data)


def test_a_tokenizer_without_a_mask(data: str, tmp_path: Path) -> None:
    folder = write_body(tmp_path / "body", tokenizer=False)
    backend = load_fast_tokenizer(str(write_tokenizer(tmp_path / "whole"))).backend_tokenizer
    bare = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]")
    bare.save_pretrained(folder)
    assert set(look(str(folder), data)) == {"rte"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    line = line_of(str(folder), data)
    assert line == f"--checkpoint: the checkpoint carries no tokenizer; accepted: {CHECKPOINTS}"


def test_a_vocabulary_smaller_than_the_tokenizers(data: str, tmp_path: Path) -> None:
    folder = write_body(tmp_path / "small", tokenizer=False, vocab_size=20)
    write_tokenizer(folder)
    refused("--checkpoint: the network's vocabulary is smaller than the tok", str(folder), data)


def test_more_tokens_than_positions(body: str, data: str) -> None:
    refused(
        r"--settings rte.max_length: is longer than .* found 33; accepted: at most 32, as by "
        r"every_task: \{max_length: 32\}",
        body, data, max_length=33,
    )  # fmt: skip


def test_data_without_the_task(body: str, data: str, tmp_path: Path) -> None:
    refused("--data: no such folder", body, str(tmp_path / "none/none"))
    write_parquet(tmp_path, "cola", 20, 5)
    refused("--data: .* has no folder of rte; it holds cola/", body, str(tmp_path))
    write_parquet(tmp_path, "rte", 20, 5)
    (tmp_path / "rte" / "validation.parquet").unlink()
    refused("--data: .* has no validation split of rte; it holds test", body, str(tmp_path))


def test_a_submission_without_a_test_split(body: str, data: str, tmp_path: Path) -> None:
    shutil.copytree(Path(data, "rte"), tmp_path / "rte")
    (tmp_path / "rte" / "test.parquet").unlink()
    assert set(look(body, str(tmp_path))) == {"rte"}
    refused("--data: .* has no test split of rte", body, str(tmp_path), predict_test=True)


def test_fewer_rows_than_a_step_takes(body: str, data: str) -> None:
    refused(
        "--settings rte.batch_size: .* found 49; accepted: at most 48", body, data, batch_size=49
    )


def test_a_micro_batch_without_samples(body: str, data: str) -> None:
    refused("--micro_batch_size: must be positive; found 0", body, data, micro_batch_size=0)
    refused(
        "--micro_batch_size: does not divide .*; found 3; accepted: a divisor of 8",
        body, data, micro_batch_size=3,
    )  # fmt: skip


def test_other_wrong_input_keeps_its_words(body: str, data: str) -> None:
    refused("data.max_length: is too short", body, data, max_length=2)
