"""Fine-tuning with batches of similar lengths against random batches padded to 256 tokens.

    python scripts/benchmarks/length_buckets.py --checkpoint last.ckpt --repeats 3 --json rows.json

Two trainings from one checkpoint with the same seed, step by step in turns; a repeat is a pair of
whole trainings with another seed. Three rows for a task: token positions, seconds of all steps
(loading included), and the difference of the scores after training, which should be chance. Needs
the folder of real test data: `RRR_DATA`, or `../shared/data` beside the checkout.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _intervals import difference_row
from _timing import Median, StepClock, be_quiet, report, time_in_turns
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from rrr_lightning.data.base import KeyedDataModule
from rrr_lightning.data.encoded_texts import EncodedTexts
from rrr_lightning.data.glue import GlueDataModule
from rrr_lightning.data.sampling import EndlessBatches, Key
from rrr_lightning.models.text_classifier import TextClassifier

LENGTH, BATCH = 256, 32
LEARNING_RATE = 1e-3  # for narrow networks
MOST_POSITIONS, MOST_SECONDS = 1 / 3, 1 / 2.5
SCORES = {"cola": "matthews", "stsb": "spearman"}


class Padded:
    """Rows that are all padded to the same length."""

    def __init__(self, rows: EncodedTexts, padding: int) -> None:
        self.rows = rows
        self.padding = {"input_ids": padding}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, keys: Sequence[Key]) -> dict[str, Tensor]:
        batch = self.rows[keys]
        return {name: self._pad(name, values) for name, values in batch.items()}

    def _pad(self, name: str, values: Tensor) -> Tensor:
        if values.dim() == 1:
            return values
        return F.pad(values, (0, LENGTH - values.shape[1]), value=self.padding.get(name, 0))


class PaddedGlue(GlueDataModule):
    """A task whose batches are random and padded to the longest text that is allowed."""

    def load(self) -> tuple[Any, EncodedTexts]:
        """Returns the padded training set, and the validation set as it is."""
        training_set, validation_set = super().load()
        return Padded(training_set, self.tokenizer.pad_token_id), validation_set

    def make_batches(self, training_set: Any) -> EndlessBatches:
        """Returns the sampler without buckets."""
        return KeyedDataModule.make_batches(self, training_set)


class Watch(Callback):
    """Counts the token positions of every step, and ticks at its end."""

    def __init__(self, clock: StepClock) -> None:
        self.clock = clock
        self.positions = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts and ticks."""
        self.positions += batch["input_ids"].numel()
        self.clock.tick()


class Training:
    """One training: called with a clock it trains, then it can be judged."""

    def __init__(
        self, kind: type[GlueDataModule], task: str, body: str, data: str, seed: int
    ) -> None:
        self.data = kind(task, data, max_length=LENGTH, global_batch_size=BATCH, seed=seed)
        self.model = TextClassifier(
            body, self.data.num_classes, learning_rate=LEARNING_RATE, seed=seed
        )
        self.score = SCORES.get(task, "accuracy")
        self.positions = 0

    def __call__(self, clock: StepClock) -> None:
        """Trains for as many steps as the clock has."""
        watch = Watch(clock)
        _trainer(clock.device, clock.total, watch).fit(self.model, self.data)
        self.positions = watch.positions

    def judge(self, device: str) -> float:
        """Returns the score on the validation split."""
        found = _trainer(device, 1).validate(self.model, self.data, verbose=False)
        return float(found[0][f"val/{self.score}"])


def _trainer(device: str, steps: int, *callbacks: Callback) -> Trainer:
    return Trainer(
        accelerator=device,
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0 if callbacks else None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )


def compare(
    task: str, body: str, data: str, device: str, seeds: Sequence[int], most_steps: int | None
) -> list[dict[str, Any]]:
    """Returns the three rows of a task."""
    positions, seconds, scores = [], [], []
    for seed in seeds:
        pair = [Training(kind, task, body, data, seed) for kind in (GlueDataModule, PaddedGlue)]
        steps = min(pair[0].data.rows_trained // BATCH, most_steps or sys.maxsize)
        times = time_in_turns((pair[0], pair[1]), device, steps)
        seconds.append([sum(each[1:]) for each in times])  # the first step's are those of a start
        positions.append([each.positions for each in pair])
        scores.append([each.judge(device) for each in pair])
        print(task, seed, positions[-1], seconds[-1], scores[-1], flush=True)
    about = {"n": len(seeds), "steps": steps, "batch_size": BATCH, "length": LENGTH}
    what = f"length buckets / padding to {LENGTH}, {task}"
    score = pair[0].score
    return [
        _ratio(f"token positions, {what}", positions, MOST_POSITIONS) | about,
        _ratio(f"seconds, {what}", seconds, MOST_SECONDS) | about,
        difference_row(f"{score}, length buckets - padding to {LENGTH}, {task}", scores) | about,
    ]


def _ratio(name: str, pairs: Sequence[Sequence[float]], goal: float) -> dict[str, Any]:
    ratios = [mine / other for mine, other in pairs]
    middle = Median.of(ratios)
    return {
        **{"name": name, "ratio": middle.value, "low": middle.low, "high": middle.high},
        **{"goal": goal, "rule": "at most", "met": middle.value <= goal},
        **{"coverage": middle.coverage, "ratios": ratios, "pairs": [list(pair) for pair in pairs]},
    }


def main() -> int:
    """Runs the benchmark; the exit status is 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="a text student with 256 positions")
    parser.add_argument("--tasks", default="stsb,mrpc")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of trainings per task")
    parser.add_argument("--steps", type=int, help="at most so many steps; an epoch by default")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    fallback = Path(__file__).resolve().parents[3] / "shared" / "data"
    data = str(Path(os.environ.get("RRR_DATA", fallback)) / "glue")
    be_quiet()
    rows, seeds = [], range(1, arguments.repeats + 1)
    for task in arguments.tasks.split(","):
        rows += compare(task, arguments.checkpoint, data, arguments.device, seeds, arguments.steps)
    return report(rows, arguments.json, arguments.device)


if __name__ == "__main__":
    sys.exit(main())
