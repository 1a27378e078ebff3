r"""A small BERT pretrained on text against the same network from random weights, on small tasks.

    python scripts/results/glue.py \
        --checkpoint runs/bert-text/teacher/checkpoints/last.ckpt --out runs/glue \
        --results docs/results/glue

Runs `rrr glue` on both with two learning rates; finished jobs are kept, so the command can be
repeated. Reports and comparisons go into the results folder. The tasks are found in
`$RRR_DATA/glue`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from _runs import data_folder, machine

from rrr_lightning.export import export_checkpoint

TASKS = "cola,mrpc,rte,stsb"
LENGTH = 32  # positions of the network
RATES = (1e-4, 1e-3)  # that of the quick protocol, and one for networks as narrow as this
REPORTS = ("glue.json", "glue.csv", "glue.md")
COMPARISON = ("comparison.json", "comparison.md", "comparison.png")


def with_new_weights(checkpoint: Path, folder: Path) -> Path:
    """Returns a folder with the checkpoint's network and tokenizer, and new weights."""
    if not folder.exists():
        export_checkpoint(checkpoint, folder)
        torch.manual_seed(0)
        config = transformers.AutoConfig.from_pretrained(folder)
        transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    return folder


def judge(checkpoint: Path, out: Path, settings: Path, *options: str) -> None:
    """Runs `rrr glue` on one checkpoint."""
    command = [sys.executable, "-m", "rrr_lightning", "glue", "--checkpoint", str(checkpoint)]
    command += ["--data", str(data_folder() / "glue"), "--tasks", TASKS, "--protocol", "quick"]
    command += ["--settings", str(settings), "--devices", "cpu:2", "--out", str(out), *options]
    print(" ".join(command), flush=True)
    subprocess.run(command, check=True)


def keep(folder: Path, results: Path, files: Sequence[str]) -> None:
    """Copies files; folders of this machine are named from the current one."""
    results.mkdir(parents=True, exist_ok=True)
    for file in files:
        content = (folder / file).read_bytes()
        (results / file).write_bytes(content.replace(f"{Path.cwd()}/".encode(), b""))


def main() -> None:
    """Runs what is missing, then copies the reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="of scripts/results/bert_text.py"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, required=True, help="folder of the reports")
    arguments = parser.parse_args()
    out, results = arguments.out, arguments.results
    out.mkdir(parents=True, exist_ok=True)
    new = with_new_weights(arguments.checkpoint, out / "new-weights")
    for rate in RATES:
        random, pretrained = (out / f"{name}-{rate:g}" for name in ("random", "pretrained"))
        settings = out / f"settings-{rate:g}.yaml"
        cells = {"every_task": {"max_length": LENGTH, "learning_rate": rate}}
        settings.write_text(json.dumps(cells) + "\n")
        judge(new, random, settings)
        judge(arguments.checkpoint, pretrained, settings, "--compare", str(random))
        keep(random, results / random.name, REPORTS)
        keep(pretrained, results / pretrained.name, (*REPORTS, *COMPARISON))
    (results / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n")


if __name__ == "__main__":
    main()
