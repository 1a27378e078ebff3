from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from rrr_lightning.errors import InputError
from tests.data.toy import Notes, NumberedData, make_trainer


def test_loaders_work_without_a_trainer() -> None:
    data = NumberedData(30, micro_batch_size=4, eval_batch_size=4)
    data.setup("fit")
    seen = [indices.tolist() for _, indices in islice(data.train_dataloader(), 3)]
    assert seen == [[index for _, index in data.batches.micro_batch(0, part)] for part in range(3)]
    assert [len(indices) for _, indices in data.val_dataloader()] == [4, 4, 2]


def test_the_seed_is_that_of_seed_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "8")
    named, given = NumberedData(seed=None), NumberedData(seed=8)
    assert named.batches.micro_batch(0, 0) == given.batches.micro_batch(0, 0)
    assert given.batches.micro_batch(0, 0) != NumberedData(seed=9).batches.micro_batch(0, 0)


@pytest.mark.parametrize("sizes", [(None, None, 12), (5, None, 5), (5, 3, 3)])
def test_evaluation_batches_follow_from_training(sizes: tuple[int | None, int | None, int]) -> None:
    micro, evaluation, expected = sizes
    data = NumberedData(micro_batch_size=micro, eval_batch_size=evaluation)
    assert data.eval_loader(data.sets[0]).batches.batch_size == expected


@pytest.mark.parametrize(
    ("name", "value"), [("global_batch_size", 0), ("micro_batch_size", -1), ("eval_batch_size", 0)]
)
def test_sizes_are_checked_when_made(name: str, value: int) -> None:
    line = f"data.{name}: must be positive; found {value}; accepted: a whole number from 1"
    with pytest.raises(InputError) as caught:
        NumberedData(**{name: value})
    assert str(caught.value) == line


def test_one_trainer_can_fit_two_data_modules_and_evaluate(tmp_path: Path) -> None:
    module = Notes()
    trainer = make_trainer(tmp_path, 3)
    trainer.fit(module, datamodule=NumberedData(micro_batch_size=4))
    assert [len(indices) for _, indices in module.seen] == [4] * 9
    trainer.validate(module, datamodule=NumberedData(), verbose=False)
    assert module.evaluated[-10:] == list(range(10))
    trainer.fit_loop.epoch_loop.max_steps = 5
    trainer.fit(module, datamodule=NumberedData(micro_batch_size=6))
    assert [len(indices) for _, indices in module.seen[9:]] == [6] * 4
    assert {step for step, _ in module.seen[9:]} == {3, 4}


def test_predictions_come_in_order(tmp_path: Path) -> None:
    module = Notes()
    module.predict_step = lambda batch: batch[1]  # type: ignore[method-assign]
    data = NumberedData(eval_batch_size=4)
    data.predict_dataloader = data.val_dataloader  # type: ignore[method-assign]
    parts = make_trainer(tmp_path, 3).predict(module, datamodule=data)
    assert parts is not None
    assert [part.tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
