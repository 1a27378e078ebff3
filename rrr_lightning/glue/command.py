"""`rrr glue`: fine-tunes a checkpoint on GLUE and reports a score that can be compared.

    rrr glue --checkpoint last.ckpt --data nyu-mll/glue --out runs/glue

Run again, it goes on where it stopped; of finished work it says `0 jobs run`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from rrr_lightning.errors import InputError
from rrr_lightning.glue.evaluate import evaluate
from rrr_lightning.glue.protocol import PROTOCOLS
from rrr_lightning.jobs.places import slurm_parameters


def _fail(line: str) -> NoReturn:
    # Imports Lightning, which a call with nothing left to do can spare.
    from rrr_lightning._parsing import fail

    fail(line)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        _fail(message)


def main(arguments: Sequence[str]) -> None:
    """Runs `rrr glue`."""
    given = _parser().parse_args(arguments)
    try:
        _, outcome = evaluate(
            given.checkpoint,
            given.data,
            given.out,
            tasks=given.tasks,
            protocol=given.protocol,
            settings=given.settings,
            seeds=_seeds(given.seeds),
            micro_batch_size=given.micro_batch_size,
            devices=given.devices,
            slurm=slurm_parameters(given.slurm),
            submission=given.submission,
            compare_with=given.compare,
        )
    except InputError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        sys.exit(130)
    if not outcome.complete:
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "rrr glue",
        description="Fine-tunes a checkpoint on GLUE by a protocol and reports the scores.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="a checkpoint, a Hugging Face folder or a hub id")
    add("--data", default="nyu-mll/glue", help="a folder with the tasks' files, or a hub id")
    add("--out", required=True, help="the output folder; finished jobs in it are kept")
    add("--tasks", default="all", help="all, or names such as cola,rte or all,wnli")
    add("--protocol", default="published", help=", ".join(PROTOCOLS))
    add("--settings", help="a YAML file with cells of the protocol to replace, by task")
    add("--seeds", help="seeds for every task, such as 19,717")
    add("--micro_batch_size", type=int, help="samples per forward pass, where memory is short")
    add("--devices", default="auto", help="auto, cpu, cpu:4, gpu, gpu:0,2, slurm or slurm:16")
    add("--slurm", help="parameters of the cluster, such as gpus_per_node=1,cpus_per_task=4")
    add("--submission", help="a zip file for predictions of the test splits")
    add("--compare", help="the output folder of another checkpoint, to set against this one")
    return parser


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise InputError(
            "not numbers", key="--seeds", found=text, accepted="such as 19,717"
        ) from None
