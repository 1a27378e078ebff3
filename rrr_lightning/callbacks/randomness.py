"""`KeyedRandomness`: dropout and its like as a function of the step, for any LightningModule.

A generator's state is not part of a checkpoint, so a module with dropout ends elsewhere when its
run is interrupted. Keyed by (seed, step, micro-batch, rank) it ends at the same weights. This
library's own modules key themselves.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from rrr_lightning.errors import InputError, check_types
from rrr_lightning.keyed_rng import check_seed, global_seed, rekey
from rrr_lightning.models.student import micro_step


class KeyedRandomness(Callback):
    """Keys torch's default generators at the start of every micro-batch of training.

    Args:
        seed: The key; None for the global seed.
    """

    def __init__(self, seed: int | None = None) -> None:
        check_types(KeyedRandomness.__init__, locals())
        check_seed(seed, "seed")
        self.seed = seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Looks the global seed up, which may be set after the callback was made."""
        self.seed = global_seed(self.seed)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Starts the stream of this micro-batch."""
        rekey(global_seed(self.seed), "step", *micro_step(trainer, batch_idx))

    def state_dict(self) -> dict[str, Any]:
        """The seed, which a resumed run is held to."""
        return {"seed": global_seed(self.seed)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses to go on with another seed than the checkpoint's."""
        if state_dict["seed"] != global_seed(self.seed):
            raise InputError(
                "differs from the checkpoint's",
                key="seed",
                found=self.seed,
                accepted=f"{state_dict['seed']} as in the checkpoint, or a new run",
            )
