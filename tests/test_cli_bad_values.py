"""Bad values on the command line: each ends with one line that names the key, and leaves nothing.

`test_cli.py` has wrong keys, `test_cli_refusals.py` wrong teachers, students and data.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.cli_runs import FIT
from tests.test_cli_refusals import Refused

# What a user writes, and a pattern of the line.
OPTIONS = [
    # numbers out of range
    ("--seed_everything=-1", r"^seed_everything: .*\[0, 2\*\*32\)"),
    (f"--seed_everything={2**64}", r"^seed_everything: "),
    ("--seed_everything=1e20", r"^seed_everything: "),
    ("--seed_everything=nan", r"^seed_everything"),
    ("--trainer.val_check_interval=0", r"^trainer\.val_check_interval: "),
    ("--trainer.val_check_interval=-3", r"^trainer\.val_check_interval: "),
    ("--trainer.val_check_interval=1.5", r"^trainer\.val_check_interval: "),
    ("--trainer.gradient_clip_val=-1", r"^trainer\.gradient_clip_val: .*found -1"),
    ("--trainer.gradient_clip_val=nan", r"^trainer\.gradient_clip_val: "),
    ("--trainer.limit_train_batches=0", r"^trainer\.limit_train_batches: "),
    ("--trainer.limit_train_batches=-2", r"^trainer\.limit_train_batches: "),
    ("--trainer.limit_train_batches=1.5", r"^trainer\.limit_train_batches: "),
    ("--trainer.limit_val_batches=-1", r"^trainer\.limit_val_batches: "),
    ("--trainer.log_every_n_steps=-1", r"^trainer\.log_every_n_steps: "),
    ("--trainer.accumulate_grad_batches=0", r"^trainer\.accumulate_grad_batches: "),
    ("--trainer.accumulate_grad_batches=-4", r"^trainer\.accumulate_grad_batches: "),
    ("--trainer.check_val_every_n_epoch=0", r"^trainer\.check_val_every_n_epoch: "),
    ("--trainer.num_sanity_val_steps=-2", r"^trainer\.num_sanity_val_steps: "),
    ("--trainer.num_nodes=0", r"^trainer\.num_nodes: "),
    ("--trainer.devices=0", r"^trainer\.devices: "),
    ("--trainer.max_steps=0", r"^trainer\.max_steps: "),
    ("--trainer.max_steps=-1", r"^trainer\.max_steps: "),
    ("--trainer.max_steps=many", r"^trainer\.max_steps: "),
    ("--trainer.max_steps=1e30", r"^trainer\.max_steps: "),
    ("--trainer.max_epochs=-7", r"^trainer\.max_epochs: "),
    ("--trainer.precision=12", r"^trainer\.precision: "),
    ("--trainer.accelerator=abacus", r"^trainer"),
    ("--trainer=null", r"^trainer: "),
    ("--checkpoint=null", r"^checkpoint: "),
    ("--cost=null", r"^cost: "),
    ("--distillation=null", r"^distillation: "),
    # the model
    ("--model.learning_rate=nan", r"^(model\.)?learning_rate: .*found nan"),
    ("--model.learning_rate=inf", r"^(model\.)?learning_rate: "),
    ("--model.learning_rate=-0.1", r"^(model\.)?learning_rate: "),
    ("--model.learning_rate=1e40", r"^(model\.)?learning_rate: "),
    ("--model.learning_rate=fast", r"^(model\.)?learning_rate: "),
    ("--model.weight_decay=nan", r"^(model\.)?weight_decay: "),
    ("--model.weight_decay=1e39", r"^(model\.)?weight_decay: "),
    ("--model.momentum=1.5", r"^(model\.)?momentum: "),
    ("--model.num_classes=0", r"^(model\.)?num_classes: "),
    ("--model.num_classes=1000000000000", r"^(model\.)?num_classes: "),
    ("--model.num_classes=2.5", r"^(model\.)?num_classes: "),
    ("--model.label_smoothing=2", r"^(model\.)?label_smoothing: "),
    ("--model.mean=[.nan, 0, 0]", r"^model\.mean: "),
    ("--model.seed=-1", r"^model\.seed: "),
    ("--data.seed=-1", r"^data\.seed: "),
    ("--model.std=[0, 1, 1]", r"a std is not positive"),
    ("--model.class_names=[a, a]", r"^(model\.)?class_names: "),
    ("--model.loss=kl", r"^model\.loss: "),
    ("--model.network=", r"^(model\.)?network: "),
    # the data, the checkpoints, the costs
    ("--data.global_batch_size=0", r"^data\.global_batch_size: "),
    ("--data.global_batch_size=-8", r"^data\.global_batch_size: "),
    ("--data.num_workers=-1", r"^data\.num_workers: "),
    ("--checkpoint.every_n_steps=-1", r"^checkpoint\.every_n_steps: "),
    ("--checkpoint.filename=val/{step}", r"^checkpoint\.filename: "),
    ("--checkpoint.filename=../last", r"^checkpoint\.filename: "),
    ("--cost.every_n_seconds=nan", r"^cost\.every_n_seconds: "),
    ("--cost.price_per_device_hour=nan", r"^cost\.price_per_device_hour: "),
    ("--cost.price_per_device_hour=inf", r"^cost\.price_per_device_hour: "),
    # abbreviated and misremembered names
    ("--trainer.max_step=4", r"^trainer\.max_step: .*did you mean 'trainer\.max_steps'"),
    ("--model.learning=4", r"^model\.learning: .*did you mean '(model\.)?learning_rate'"),
    ("--optimizer=Adam", r"^optimizer: .*'model\.optimizer'"),
    ("--lr_scheduler=StepLR", r"^lr_scheduler: .*'model\.lr_scheduler'"),
    ("--model.lr=0.1", r"^model\.lr: .*'model\.learning_rate'"),
    ("--lr=0.1", r"^lr: .*'model\.learning_rate'"),
    ("--data.batch_size=8", r"^data\.batch_size: .*'data\.global_batch_size'"),
    ("--batch_size=8", r"^batch_size: .*'data\.global_batch_size'"),
    ("--trainer.epochs=8", r"^trainer\.epochs: .*'trainer\.max_epochs'"),
    ("--epochs=8", r"^epochs: .*'trainer\.max_epochs'"),
    ("--distillation.temperature=2", r".*'distillation\.loss\.temperature'"),
    ("--distillation.alpha=0.5", r".*'distillation\.schedule\.weight'"),
    ("--distillation.weight=0.5", r".*'distillation\.schedule\.weight'"),
    ("--distillation.teacher=a.ckpt", r".*'distillation\.teachers'"),
    ("--model.arch=resnet18", r"^model\.arch: .*'model\.network'"),
    ("--model.model_name_or_path=x", r"^model\.model_name_or_path: .*'model\.network'"),
    ("--data.path=x", r"^data\.path: .*'data\.source'"),
    ("--seed=3", r"^seed: .*'seed_everything'"),
    # loggers
    ("--trainer.logger=TensorBoardLogger", r"^trainer\.logger: .*required: save_dir$"),
    ("--trainer.logger=MLFlowLogger", r"^trainer\.logger: a package is missing.*mlflow"),
    ("--trainer.logger=WandbLogger", r"^trainer\.logger: a package is missing.*wandb"),
    ("--trainer.logger=CometLogger", r"^trainer\.logger: a package is missing.*comet"),
    ("--trainer.logger=NoSuchLogger", r"^trainer\.logger"),
    # distillation
    ("--distillation.schedule=null", r"^distillation\.schedule: "),
    ("--distillation.loss.temperature=0", r"^distillation\.loss"),
    ("--distillation.loss.temperature=1e30", r"^distillation\.loss\.temperature: "),
    ("--distillation.schedule.weight=nan", r"^distillation\.schedule\.weight: "),
    ("--distillation.pool.per_step=0", r"^distillation\.pool\.per_step: "),
    ("--distillation.pool.per_step=some", r"^distillation\.pool\.per_step: "),
    ("--distillation.teacher_min_accuracy=nan", r"^distillation\.teacher_min_accuracy: "),
]


@pytest.mark.parametrize(
    ("option", "pattern"),
    [
        pytest.param(*case, id=case[0], marks=[pytest.mark.slow] if number % 4 else [])
        for number, case in enumerate(OPTIONS)
    ],
)
def test_bad_values(option: str, pattern: str, refused: Refused) -> None:
    teachers = ["--distillation.teachers=x.ckpt"] if "distillation" in option else []
    loss = ["--distillation.loss=KLDivergence"] if "loss.temp" in option else []
    line = refused(*FIT, *teachers, *loss, option)
    assert re.search(pattern, line), line
    assert len(line) < 700
    assert list(Path().iterdir()) == []


CONFIGS = {
    "utf16": yaml.safe_dump({"trainer": {"max_steps": 3}}).encode("utf-16"),
    "latin1": "model: caf\xe9".encode("latin-1"),
    "nul": b"trainer:\x00 3",
    "null_trainer": b"trainer: null",
    "list_trainer": b"trainer: [1, 2]",
    "empty": b"",
    "number": b"17",
    "unclosed": b"trainer: {max_steps: 3",
    "twice": b"trainer: {max_steps: 3}\ntrainer: {max_steps: 4}\n",
    "twice_nested": b"trainer:\n  max_steps: 3\n  max_steps: 4\n",
    "tab": b"trainer:\n\tmax_steps: 3\n",
    "tag": b"trainer: !!python/object:os.system {}",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_bad_configurations(name: str, refused: Refused) -> None:
    Path("run.yaml").write_bytes(CONFIGS[name])
    line = refused(*FIT, "--config=run.yaml")
    assert re.match(r"--config|trainer|model|run\.yaml", line), line
    assert "Union" not in line
    assert len(line) < 700
    assert [path.name for path in Path().iterdir()] == ["run.yaml"]
