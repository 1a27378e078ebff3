r"""A small BERT pretrained on text against the same network from random weights, on small tasks.

    python scripts/results/glue.py \
        --checkpoint runs/bert-text/teacher/checkpoints/last.ckpt --out runs/glue \
        --results docs/results/glue

Pre-training goes on with longer sequences, then `rrr glue` runs on both networks; what is finished
is kept, so the command can be repeated. Reports and comparisons go into the results folder. Text
and tasks are found in `$RRR_DATA/text` and `$RRR_DATA/glue`.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from _runs import LOGS, data_folder, machine, run
from safetensors.torch import load_file, save_file

from rrr_lightning.export import export_checkpoint

TASKS = {"small": "cola,mrpc,rte,stsb", "larger": "sst2,qqp,qnli"}
POSITIONS, LENGTH = 256, 64
# The student has seen 32 tokens at a time: it goes on with 64, so that pairs of sentences fit.
SECOND_STAGE = (
    *("--trainer.max_steps", "15000"),
    *("--trainer.val_check_interval", "3000"),
    *("--model.pretrained", "true"),
    *("--model.learning_rate", "0.001"),
    *("--data.mode", "pack"),
    *("--data.sequence_length", str(LENGTH)),
    *("--data.max_val_documents", "500"),
    *("--data.eval_batch_size", "256"),
)
# Between the rate of the quick protocol, too low for a network as narrow as this, and 1e-3, at
# which MRPC is overfitted.
MANY = {"seeds": [19, 8364, 717, 10536, 90166, 1, 2, 3]}
SHORT = {"max_steps": 300, "seeds": [1, 2, 3]}
SETTINGS = {
    "every_task": {"max_length": LENGTH, "learning_rate": 5e-4},
    **dict.fromkeys(TASKS["small"].split(","), MANY),
    **dict.fromkeys(TASKS["larger"].split(","), SHORT),
}
REPORTS = ("glue.json", "glue.csv", "glue.md")
COMPARISON = ("comparison.json", "comparison.md", "comparison.png")


def with_positions(checkpoint: Path, folder: Path) -> Path:
    """Returns a folder of the checkpoint with more positions, which repeat its own."""
    if not folder.exists():
        export_checkpoint(checkpoint, folder)
        config, file = folder / "config.json", folder / "model.safetensors"
        state = load_file(file)
        (name,) = (name for name in state if name.endswith("position_embeddings.weight"))
        state[name] = state[name].repeat(math.ceil(POSITIONS / len(state[name])), 1)[:POSITIONS]
        save_file(state, file, metadata={"format": "pt"})
        settings = {**json.loads(config.read_text()), "max_position_embeddings": POSITIONS}
        config.write_text(json.dumps(settings))
    return folder


def pretrain(start: Path, folder: Path) -> Path:
    """Returns the checkpoint after the second stage of pre-training."""
    data = ("--data.source", str(data_folder() / "text"), "--data.tokenizer", str(start))
    network = ("--model.network", str(start))
    run(folder, "quickstart/bert_teacher.yaml", *data, *network, *SECOND_STAGE)
    return folder / "checkpoints" / "last.ckpt"


def with_new_weights(start: Path, folder: Path) -> Path:
    """Returns a folder with the same network and tokenizer, and new weights."""
    if not folder.exists():
        shutil.copytree(start, folder)
        torch.manual_seed(0)
        config = transformers.AutoConfig.from_pretrained(folder)
        transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    return folder


def judge(checkpoint: Path, tasks: str, out: Path, *options: str) -> None:
    """Runs `rrr glue` on one checkpoint."""
    out.parent.mkdir(parents=True, exist_ok=True)
    settings = out.with_name("settings.yaml")
    settings.write_text(json.dumps(SETTINGS) + "\n")
    command = [sys.executable, "-m", "rrr_lightning", "glue", "--checkpoint", str(checkpoint)]
    command += ["--data", str(data_folder() / "glue"), "--tasks", tasks, "--protocol", "quick"]
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
    start = with_positions(arguments.checkpoint, out / "start")
    student = pretrain(start, out / "student")
    new = with_new_weights(start, out / "new-weights")
    keep(out / "student", results / "second-stage", LOGS)
    for name, tasks in TASKS.items():
        random, pretrained = out / name / "random", out / name / "pretrained"
        judge(new, tasks, random)
        judge(student, tasks, pretrained, "--compare", str(random))
        keep(random, results / name / "random", REPORTS)
        keep(pretrained, results / name / "pretrained", (*REPORTS, *COMPARISON))
    (results / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n")


if __name__ == "__main__":
    main()
