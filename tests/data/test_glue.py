from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn

from rrr_lightning.data.glue import GlueDataModule
from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.errors import InputError
from rrr_lightning.tokens import load_fast_tokenizer
from tests.data.glue_files import text, write_diagnostic, write_parquet, write_tokenizer
from tests.data.toy import make_trainer

Rows = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("glue")
    for task in ("rte", "mnli", "stsb"):
        write_parquet(root, task, train=61, other=11)
    return str(root)


def rows_of(batch: dict[str, Tensor]) -> Rows:
    """The tokens of each row, without padding."""
    pairs = zip(batch["input_ids"].tolist(), batch["attention_mask"].sum(dim=1), strict=True)
    return [tuple(ids[: int(length)]) for ids, length in pairs]


class Reader(LightningModule):
    """A bag of words; notes which rows it sees."""

    def __init__(self, columns: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.net = nn.EmbeddingBag(128, columns, mode="mean", padding_idx=0)
        self.seen: list[tuple[int, Rows]] = []
        self.evaluated: dict[int, Rows] = {}

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(batch["input_ids"])

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        self.seen.append((self.trainer.global_step, rows_of(batch)))
        return nn.functional.cross_entropy(self(batch), batch["labels"])

    def validation_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.evaluated[dataloader_idx] = self.evaluated.get(dataloader_idx, []) + rows_of(batch)

    test_step = validation_step

    def predict_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        assert "labels" not in batch
        return self(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.05)


class Save(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.total.processed
        trainer.save_checkpoint(self.folder / f"{done}.ckpt")


def data(source: str, tokenizer: str | None, task: str = "rte", **settings: Any) -> GlueDataModule:
    settings = {"global_batch_size": 12, "micro_batch_size": 4, "seed": 3, **settings}
    return GlueDataModule(task, source, tokenizer, **settings)


def fit(folder: Path, given: GlueDataModule, ckpt_path: Any = None, **trainer: Any) -> Reader:
    module = Reader()
    made = make_trainer(folder, 7, **trainer)
    made.fit(module, datamodule=given, ckpt_path=ckpt_path)
    return module


# ------------------------------------------------------------------------------ training


def test_a_resumed_run_sees_the_same_texts_and_ends_at_the_same_weights(
    tmp_path: Path, source: str, tokenizer: str
) -> None:
    whole = fit(tmp_path, data(source, tokenizer), callbacks=[Save(tmp_path)])
    assert [step for step, _ in whole.seen] == [step for step in range(7) for _ in range(3)]
    for batch in (1, 9, 16):  # an epoch has 5 steps, a step 3 micro-batches
        for workers in (0, 2) if batch == 16 else (0,):
            resumed = fit(
                tmp_path, data(source, tokenizer, num_workers=workers), tmp_path / f"{batch}.ckpt"
            )
            assert resumed.seen == [item for item in whole.seen if item[0] >= batch // 3]
            assert torch.equal(resumed.net.weight, whole.net.weight)


def test_an_epoch_brings_every_text_once(tmp_path: Path, source: str, tokenizer: str) -> None:
    given = data(source, tokenizer)
    given.setup("fit")
    loader = iter(given.train_dataloader())
    epoch = [row for _ in range(15) for row in rows_of(next(loader))]
    everything = rows_of(given.split("train")[[(0, index) for index in range(61)]])
    assert len(epoch) == 60
    assert sorted(epoch) == sorted(row for row in everything if row in epoch)
    assert given.batches.steps_per_epoch == 5


def test_texts_of_a_step_are_alike(source: str, tokenizer: str) -> None:
    given = data(source, tokenizer)
    lengths = given.split("train").lengths
    steps = [
        [index for part in range(3) for _, index in given.batches.micro_batch(step, part)]
        for step in range(5)
    ]
    spread = [int(lengths[step].max() - lengths[step].min()) for step in steps]
    assert max(spread) <= 12 < int(lengths.max() - lengths.min())


# ------------------------------------------------------------------------------ evaluation


def test_mnli_is_validated_on_both_of_its_sets(tmp_path: Path, source: str, tokenizer: str) -> None:
    given = data(source, tokenizer, "mnli")
    module = Reader()
    make_trainer(tmp_path, 7).validate(module, datamodule=given, verbose=False)
    for number, split in enumerate(TASKS["mnli"].validation_splits):
        everything = given.split(split)[[(0, index) for index in range(11)]]
        assert sorted(module.evaluated[number]) == sorted(rows_of(everything))
        sizes = [len(row) for row in module.evaluated[number]]
        assert sizes == sorted(sizes)
    assert given.evaluation_suffixes == ("", "_mismatched")


@pytest.mark.parametrize("task", ["rte", "mnli"])
def test_predictions_come_back_in_the_order_of_the_rows(
    tmp_path: Path, source: str, tokenizer: str, task: str
) -> None:
    given, module = data(source, tokenizer, task), Reader()
    outputs: Any = make_trainer(tmp_path, 7).predict(module, datamodule=given)
    splits = TASKS[task].test_splits
    for split, batches in zip(splits, [outputs] if task == "rte" else outputs, strict=True):
        rows = given.in_row_order(split, batches)
        for index in range(11):
            alone = module(given.split(split)[[(0, index)]])[0]
            assert torch.allclose(rows[index], alone, atol=1e-6)
    with pytest.raises(
        InputError, match=r"not the predictions of one device for all of .*found '7"
    ):
        given.in_row_order(splits[0], [*batches[:1], batches[0][:3]])


def test_mnli_brings_the_diagnostic_set_where_the_source_has_it(
    tmp_path: Path, source: str, tokenizer: str
) -> None:
    assert data(source, tokenizer, "mnli").test_splits == TASKS["mnli"].test_splits
    shutil.copytree(Path(source), tmp_path / "glue")
    write_diagnostic(tmp_path / "glue")
    given = data(str(tmp_path / "glue"), tokenizer, "mnli")
    assert given.test_splits == (*TASKS["mnli"].test_splits, "diagnostic")
    outputs: Any = make_trainer(tmp_path, 7).predict(Reader(), datamodule=given)
    splits = zip(given.test_splits, outputs, strict=True)
    assert [len(given.in_row_order(*each)) for each in splits] == [11, 11, 5]
    assert data(str(tmp_path / "glue"), tokenizer).test_splits == ("test",)


# ------------------------------------------------------------------------------ what it tells


def test_what_a_model_and_a_report_look_at(source: str, tokenizer: str) -> None:
    given = data(source, tokenizer)
    assert given.num_classes == 2
    assert given.class_names == ("entailment", "not_entailment")
    assert given.metrics == ("accuracy",)
    assert given.rows == {"train": 61, "validation": 11}
    assert given.official_rows == {"train": 2490, "validation": 277}
    assert given.rows_trained == 61
    assert given.is_subset
    assert given.vocabulary_size == len(load_fast_tokenizer(tokenizer)) == len(given.vocabulary)
    scores = data(source, tokenizer, "STS-B")
    assert (scores.task, scores.num_classes, scores.class_names) == ("stsb", 1, None)
    assert scores.split("train").labels.dtype == torch.float32  # type: ignore[union-attr]


def test_whole_data_are_no_subset(rrr_data: Path, tokenizer: str) -> None:
    given = data(str(rrr_data / "glue"), tokenizer, "mrpc")
    assert given.rows == given.official_rows
    assert not given.is_subset


def test_the_tokenizer_may_be_that_of_a_checkpoint_or_of_the_model(
    tmp_path: Path, source: str, tokenizer: str
) -> None:
    plain = data(source, tokenizer)
    described = {
        "tokenizer_json": plain.tokenizer_json,
        "schema": {"special_token_ids": plain.special_token_ids},
    }
    torch.save({"rrr_lightning": described}, tmp_path / "a.ckpt")
    expected = rows_of(plain.split("train")[[(0, 5)]])
    stored = data(source, str(tmp_path / "a.ckpt"))
    assert rows_of(stored.split("train")[[(0, 5)]]) == expected
    module, own = Reader(), data(source, None)
    module.vocabulary = plain  # type: ignore[assignment]
    make_trainer(tmp_path, 1).fit(module, datamodule=own)
    assert rows_of(own.split("train")[[(0, 5)]]) == expected
    assert len(load_fast_tokenizer(tokenizer)(text(5), text(10))["input_ids"]) == len(expected[0])


# ------------------------------------------------------------------------------ bad input


def test_bad_settings_are_refused(source: str, tokenizer: str) -> None:
    with pytest.raises(
        InputError, match=r"data\.max_length: is too short .*found 4; accepted: .* 8"
    ):
        data(source, tokenizer, max_length=4)
    with pytest.raises(InputError, match=r"data\.task: .* did you mean 'rte'\?; found 'rta'"):
        data(source, tokenizer, "rta")


def test_a_missing_tokenizer_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(InputError, match=r"data\.tokenizer: the model carries no tokenizer"):
        make_trainer(tmp_path, 1).fit(Reader(), datamodule=data(source, None))
    with pytest.raises(InputError, match=r"data\.tokenizer: no tokenizer can be loaded"):
        data(source, "owner/unknown").split("train").encode()


def test_a_missing_test_split_is_refused(rrr_data: Path, tmp_path: Path, tokenizer: str) -> None:
    given = data(str(rrr_data / "glue"), tokenizer)
    with pytest.raises(InputError, match=r"has no test split of rte; it holds train\.parquet, val"):
        make_trainer(tmp_path, 1).predict(Reader(), datamodule=given)


@pytest.mark.parametrize("task", ["rte", "mnli", "stsb"])
def test_test_is_refused_as_the_test_splits_have_no_labels(
    source: str, tokenizer: str, task: str
) -> None:
    with pytest.raises(InputError, match=r"has no test split with labels; .* or `validate`"):
        data(source, tokenizer, task).test_dataloader()
