"""`rrr targets`: writes the teachers' targets for a coming run, so that it needs no teacher.

    rrr targets --config bert/mini_distill.yaml --out targets/bert
    rrr fit --config bert/mini_distill.yaml --distillation.teachers null
            --distillation.targets targets/bert

Takes the configuration and all options of `rrr fit`. Killed and run again, it goes on where it
stopped; nothing that is written is written again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from rrr_lightning.cli import RRRCLI
from rrr_lightning.cli import main as run
from rrr_lightning.data.module import KeyedDataModule
from rrr_lightning.distillation.sparse_targets import Kind
from rrr_lightning.errors import InputError
from rrr_lightning.targets.plan import Choice
from rrr_lightning.targets.write import write_targets

ONE_DEVICE: dict[str, Any] = {
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "logger": False,
    "callbacks": None,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class TargetsCLI(RRRCLI):
    """Reads what `rrr fit` reads, and writes targets instead of training.

    Args:
        choice: Where to, and what is kept.
    """

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        super().__init__()

    def before_instantiate_classes(self) -> None:
        """Refuses a configuration without teachers."""
        super().before_instantiate_classes()
        section = self.config[self.subcommand]["distillation"]
        if not section["teachers"] or section["targets"]:
            raise InputError(
                "there is no teacher whose targets could be written",
                key="distillation.teachers",
                found=section["targets"],
                accepted="at least one checkpoint or spec, and no distillation.targets",
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Makes a trainer of one device that leaves nothing on the disk."""
        config = self.config_init[self.subcommand]["trainer"].as_dict()
        return self._instantiate_trainer({**config, **ONE_DEVICE, **kwargs}, [])

    def fit(self, model: LightningModule, datamodule: Any = None, **_: Any) -> None:
        """Writes the targets."""
        if not isinstance(datamodule, KeyedDataModule):
            raise InputError(
                "targets can be stored only of data whose samples are a function of the step",
                key="data",
                found=type(datamodule).__name__,
                accepted="a data module of this library",
            )
        distillation = self.config_init[self.subcommand]["distillation"]
        write_targets(self.trainer, model, datamodule, distillation, self.choice)


def write(folder: Path, kind: Kind | None, classes: int | None, options: Sequence[str]) -> None:
    """Runs `rrr targets`."""
    choice = Choice(folder, kind, classes)
    sys.argv[1:] = ["fit", *options]  # Lightning's parser reads the process's own
    run(lambda: TargetsCLI(choice))
