"""A job leaves what the trained network says, row by row, and can be killed at any step."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.errors import InputError
from rrr_lightning.files import read_json
from rrr_lightning.glue import fine_tune as module
from rrr_lightning.glue.fine_tune import (
    check_checkpoint_of,
    fine_tune,
    main,
    make_data,
    make_network,
)
from rrr_lightning.glue.plan import NETWORK, PREDICTIONS, fingerprint
from rrr_lightning.glue.protocol import TaskSettings
from rrr_lightning.jobs.process import write_json
from rrr_lightning.models.text_classifier import TextClassifier
from rrr_lightning.tokens import stored_tokenizer
from tests.glue.tiny import JUDGED, TRAIN, config_of, write_body


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / PREDICTIONS) as file:
        return dict(file)


@pytest.mark.parametrize("task", ["mrpc", "stsb", "mnli"])
def test_the_metrics_are_those_of_the_trained_network(
    task: str, body: str, data: str, tmp_path: Path
) -> None:
    settings = config_of(body, data, task)
    result = fine_tune(settings, tmp_path)
    assert read_json(tmp_path / "result.json") == result
    assert result["steps"] == TRAIN // 8
    assert result["rows"]["train"] == TRAIN
    assert result["official_rows"]["train"] == TASKS[task].rows["train"]
    # The same with the loop and the metrics that `rrr fit` has.
    batches = make_data(settings)
    network = make_network(settings, batches.num_classes)
    trainer = Trainer(
        accelerator="cpu", max_steps=TRAIN // 8, max_epochs=-1, limit_val_batches=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(network, batches)
    trainer.limit_val_batches = 1.0
    logged = {
        name: value
        for of_loader in trainer.validate(network, batches, verbose=False)
        for name, value in of_loader.items()
    }
    assert set(TASKS[task].metrics) <= set(result["metrics"])
    for name, value in result["metrics"].items():
        assert logged[f"val/{name}"] == pytest.approx(value, abs=1e-6)
    arrays = arrays_of(tmp_path)
    for split in TASKS[task].validation_splits:
        assert len(arrays[f"{split}.predictions"]) == JUDGED
        labels = batches.split(split).labels
        assert labels is not None
        assert np.array_equal(arrays[f"{split}.labels"], labels.numpy())
    names = [f"{split}.predictions" for split in TASKS[task].validation_splits]
    spread = np.ptp(np.concatenate([arrays[name] for name in names]))
    assert result["collapsed"] is bool(spread < 1e-3)


def test_the_network_is_told_the_second_text_of_a_pair(body: str, data: str) -> None:
    settings = config_of(body, data, "mrpc")
    batches = make_data(settings)
    network = make_network(settings, batches.num_classes).eval()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=1)
    trainer.strategy.connect(network)
    batches.trainer = trainer
    batches.setup("validate")
    batch = batches.split("validation")[[(0, 0), (0, 1)]]
    for ids, types, mask in zip(
        batch["input_ids"], batch["token_type_ids"], batch["attention_mask"], strict=True
    ):
        separator = batches.tokenizer.sep_token_id
        first, second = (ids == separator).nonzero().flatten().tolist()
        assert types.tolist() == [
            int(first < place <= second) for place in range(int(mask.sum()))
        ] + [0] * int((1 - mask).sum())
    told_apart = network(batch)
    del batch["token_type_ids"]
    assert not torch.allclose(told_apart, network(batch))


def test_data_that_have_changed_are_refused(body: str, data: str, tmp_path: Path) -> None:
    known = make_data(config_of(body, data)).sha256
    with pytest.raises(InputError) as refused:
        fine_tune(config_of(body, data, data_sha256={**known, "train": "other"}), tmp_path)
    assert str(refused.value) == (
        "--data: texts or labels of rte have changed since the evaluation began; found 'train'; "
        "accepted: a copy that nothing writes to any more"
    )
    result = fine_tune(config_of(body, data, data_sha256=known, max_steps=1), tmp_path)
    assert result["data_sha256"] == known


@pytest.mark.parametrize(("dropout", "used"), [(0.3, {0.3}), (0.0, {0.0}), (None, {0.0})])
def test_dropout_is_that_of_the_protocol(
    dropout: float | None, used: set[float], data: str, tmp_path: Path
) -> None:
    # Pre-training without dropout must not decide how students are fine-tuned.
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    settings = config_of(str(write_body(tmp_path, **without)), data, dropout=dropout)
    network = make_network(settings, 2)
    assert {each.p for each in network.modules() if isinstance(each, torch.nn.Dropout)} == used
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize("ntasks", ["4", None])
def test_a_micro_batch_changes_no_step(
    ntasks: str | None,
    body: str,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if ntasks is not None:  # the runner may stand in an allocation of SLURM
        monkeypatch.setenv("SLURM_NTASKS", ntasks)
    found = []
    sizes: list[int] = []
    original = TextClassifier.training_step

    def counted(self: TextClassifier, batch: Any, batch_idx: int) -> Any:
        sizes.append(len(batch["labels"]))
        return original(self, batch, batch_idx)

    monkeypatch.setattr(TextClassifier, "training_step", counted)
    for batch_size, micro_batch_size in ((8, None), (8, 2), (2, None)):
        settings = config_of(
            body, data, "stsb", dropout=0.0, max_steps=6,
            batch_size=batch_size, micro_batch_size=micro_batch_size,
        )  # fmt: skip
        fine_tune(settings, tmp_path)
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
        assert [line.partition(",")[0] for line in lines] == [f"step {n}/6" for n in range(1, 7)]
        found.append(arrays_of(tmp_path)["validation.predictions"])
    assert sizes == 6 * [8] + 24 * [2] + 6 * [2]
    whole, parts, smaller = found
    assert whole == pytest.approx(parts, abs=1e-4)
    assert abs(whole - smaller).min() > 1e-2


@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_a_network_that_has_diverged_gets_no_score(
    task: str, body: str, data: str, tmp_path: Path
) -> None:
    settings = config_of(body, data, task, learning_rate=1e20, save_network=True)
    with pytest.raises(InputError) as refused:
        fine_tune(settings, tmp_path)
    assert str(refused.value) == (
        f"--settings {task}.learning_rate: the training has diverged: a loss or a weight is not "
        "finite; found 1e+20; accepted: a smaller rate"
    )
    assert not any((tmp_path / name).exists() for name in ("result.json", PREDICTIONS, NETWORK))


def test_predictions_stand_in_the_order_of_the_rows(body: str, data: str, tmp_path: Path) -> None:
    settings = config_of(body, data, "stsb", save_network=True, predict_test=True, max_steps=2)
    fine_tune(settings, tmp_path)
    batches = make_data(settings)
    network = make_network(settings, 1).eval()
    state = torch.load(tmp_path / NETWORK, weights_only=True)["state_dict"]
    network.load_state_dict(state)
    batches.tokenizer = stored_tokenizer(tmp_path / NETWORK)
    for split in ("validation", "test"):
        found = []
        for row in range(JUDGED):
            item = batches.split(split)[[(0, row)]]
            with torch.no_grad():
                found.append(float(network.logits(item)))
        assert arrays_of(tmp_path)[f"{split}.predictions"] == pytest.approx(found, abs=1e-4)


def test_the_network_that_others_start_from_is_kept_without_its_head(
    body: str, data: str, tmp_path: Path
) -> None:
    (tmp_path / "mnli").mkdir()
    fine_tune(config_of(body, data, "mnli", save_network=True, max_steps=2), tmp_path / "mnli")
    kept = tmp_path / "mnli" / NETWORK
    state = torch.load(kept, weights_only=True)["state_dict"]
    started = make_network(config_of(str(kept), data), 2)
    (tmp_path / "rte").mkdir()
    fine_tune(config_of(str(kept), data, start="mnli", max_steps=2), tmp_path / "rte")
    embedded = "network.bert.embeddings.word_embeddings.weight"
    assert torch.equal(started.state_dict()[embedded], state[embedded])
    assert started.state_dict()["network.classifier.weight"].shape[0] == 2
    assert not torch.equal(
        make_network(config_of(body, data), 2).state_dict()[embedded], state[embedded]
    )


class Killed(Exception):
    pass


def test_a_long_run_goes_on_where_it_was_killed(
    body: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY_STEPS", 2)
    settings = config_of(body, data, epochs=2.0)
    whole, part = tmp_path / "whole", tmp_path / "part"
    whole.mkdir()
    part.mkdir()
    fine_tune(settings, whole)
    steps: list[int] = []
    original = TextClassifier.training_step

    def dies(self: TextClassifier, batch: Any, batch_idx: int) -> Any:
        steps.append(self.trainer.global_step)
        if len(steps) == 6:
            raise Killed
        return original(self, batch, batch_idx)

    monkeypatch.setattr(TextClassifier, "training_step", dies)
    with pytest.raises(Killed):
        fine_tune(settings, part)
    assert not (part / "result.json").exists()
    fine_tune(settings, part)
    assert steps[:6] == [0, 1, 2, 3, 4, 5]
    assert steps[6:] == list(range(4, 12))
    for name, array in arrays_of(whole).items():
        assert np.array_equal(array, arrays_of(part)[name])
    assert (part / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert not (part / "checkpoints").exists()


def test_a_job_that_is_told_to_end_has_not_finished(
    body: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY_STEPS", 4)
    path = tmp_path / "settings.json"
    write_json(path, config_of(body, data))
    original = TextClassifier.training_step

    def told_to_end(self: TextClassifier, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    monkeypatch.setattr("sys.argv", ["fine_tune", str(path)])
    with monkeypatch.context() as patched:
        patched.setattr(TextClassifier, "training_step", told_to_end)
        with pytest.raises(SystemExit) as end:
            main()
    assert end.value.code == 143
    assert not (tmp_path / "result.json").exists()
    stored = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["global_step"] == 3
    main()
    assert read_json(tmp_path / "result.json")["steps"] == TRAIN // 8


def test_the_result_says_how_it_was_trained(body: str, data: str, tmp_path: Path) -> None:
    settings = config_of(body, data, "cola", max_steps=1, fingerprint=fingerprint(body))
    result = fine_tune(settings, tmp_path)
    assert result["fingerprint"] == fingerprint(body)
    assert result["settings"] == {name: settings[name] for name in result["settings"]}
    assert set(result["settings"]) == set(TaskSettings.__dataclass_fields__) - {"seeds"}


def test_a_checkpoint_that_has_changed_is_refused(
    body: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config_of(body, data, max_steps=1, fingerprint="abc")
    with pytest.raises(InputError) as refused:
        fine_tune(settings, tmp_path)
    assert str(refused.value) == (
        f"--checkpoint: {body} has changed since the evaluation began; found "
        f"'{fingerprint(body)}'; accepted: abc; take a copy that nothing writes to any more"
    )
    assert not (tmp_path / "result.json").exists()
    # The network of MNLI is not the checkpoint that the fingerprint is of.
    check_checkpoint_of({**settings, "start": "mnli"})
    # Replaced while it is loaded.
    monkeypatch.setattr(module, "fingerprint", lambda _: "xyz")
    with pytest.raises(InputError, match="has changed since the evaluation began; found 'xyz'"):
        fine_tune(settings, tmp_path)


def test_input_that_cannot_be_read_may_be_tried_again(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.json"
    write_json(path, config_of(body, str(tmp_path / "nowhere")))
    monkeypatch.setattr("sys.argv", ["fine_tune", str(path)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith("rrr: error: data.source: no such folder")


def test_what_has_diverged_is_not_tried_again(
    body: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "settings.json"
    write_json(path, config_of(body, data, learning_rate=1e20))
    monkeypatch.setattr("sys.argv", ["fine_tune", str(path)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
