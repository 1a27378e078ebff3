"""A small BERT pretrained on text against the same network from random weights, on small tasks.

    python scripts/results/glue.py --out runs/glue --results docs/results/glue

Two stages of pre-training, then `rrr glue` on both networks; what is finished is kept, so the
command can be repeated. Reports and comparisons go into the results folder. Text and tasks are
found in `$RRR_DATA/text` and `$RRR_DATA/glue`.

The pretrained network is ahead on the small tasks if the interval in `small/over_seeds.json` lies
above 0: fixed, with all settings, before the run that is reported.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from _runs import LOGS, data_folder, folders, machine, run
from scipy import stats

from rrr_lightning.export import export_checkpoint

TASKS = {"small": "cola,mrpc,rte,stsb", "larger": "sst2,qqp,qnli"}
LENGTH = 64
NETWORK = {
    "num_hidden_layers": 2,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 256,
    "initializer_range": 0.06,
}
# Of both stages, and of the random weights.
SEED = 23
BOTH_STAGES = (
    *("--seed_everything", str(SEED)),
    *("--model.vocabulary_size", "8192"),
    *("--trainer.precision", "bf16-mixed"),
    *("--data.mode", "pack"),
    *("--data.max_val_documents", "500"),
    *("--data.eval_batch_size", "256"),
)
# Short sequences first: a small network leaves the frequencies of words behind sooner on them.
FIRST_STAGE = (
    *("--trainer.max_steps", "2000"),
    *("--trainer.val_check_interval", "500"),
    *("--data.tokenizer", "train:8192"),
    *("--data.max_documents", "40000"),
    *("--data.global_batch_size", "128"),
    *(word for name, value in NETWORK.items() for word in (f"--model.network.{name}", str(value))),
)
SECOND_STAGE = (
    *("--trainer.max_steps", "7000"),
    *("--trainer.val_check_interval", "1000"),
    *("--model.pretrained", "true"),
    *("--model.learning_rate", "0.001"),
    *("--data.sequence_length", "128"),
    *("--data.global_batch_size", "32"),
)
# The quick protocol's 1e-4 is too low for networks as narrow as this one; 5e-4 was taken for one
# half as wide.
MANY = {"seeds": list(range(101, 113))}
SHORT = {"max_steps": 300, "seeds": [1, 2, 3]}
SETTINGS = {
    "every_task": {"max_length": LENGTH, "learning_rate": 3e-4},
    **dict.fromkeys(TASKS["small"].split(","), MANY),
    **dict.fromkeys(TASKS["larger"].split(","), SHORT),
}
REPORTS = ("glue.json", "glue.csv", "glue.md")
COMPARISON = ("comparison.json", "comparison.md", "comparison.png")


def pretrain(out: Path) -> tuple[Path, Path]:
    """Returns the folder of the network after the first stage, and the checkpoint of the second."""
    config = "quickstart/bert_teacher.yaml"
    text = ("--data.source", str(data_folder() / "text"), *BOTH_STAGES)
    run(out / "first-stage", config, *text, *FIRST_STAGE)
    start = out / "start"
    if not start.exists():
        export_checkpoint(out / "first-stage" / "checkpoints" / "last.ckpt", start)
    network = ("--model.network", str(start), "--data.tokenizer", str(start))
    run(out / "student", config, *text, *network, *SECOND_STAGE)
    return start, out / "student" / "checkpoints" / "last.ckpt"


def with_new_weights(start: Path, folder: Path) -> Path:
    """Returns a folder with the same network and tokenizer, and new weights."""
    if not folder.exists():
        shutil.copytree(start, folder)
        torch.manual_seed(SEED)
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


def over_seeds(random: Path, pretrained: Path) -> dict[str, Any]:
    """Returns the differences of the tasks' average, seed by seed, with a 95 % interval.

    The interval is over seeds alone, for the validation rows as they are (Student's t).
    """
    before, after = (
        json.loads((folder / "glue.json").read_text())["tasks"] for folder in (random, pretrained)
    )
    differences = {
        seed: statistics.mean(
            after[task]["scores"][seed] - before[task]["scores"][seed] for task in before
        )
        for seed in next(iter(before.values()))["scores"]
    }
    values = list(differences.values())
    mean, error = statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    interval = {"low": mean - half, "high": mean + half}
    return {"by_seed": differences, "difference": mean, "standard_error": error, **interval}


def main() -> None:
    """Runs what is missing, then copies the reports."""
    out, results = folders(__doc__)
    out.mkdir(parents=True, exist_ok=True)
    start, student = pretrain(out)
    new = with_new_weights(start, out / "new-weights")
    keep(out / "first-stage", results / "first-stage", LOGS)
    keep(out / "student", results / "second-stage", LOGS)
    for name, tasks in TASKS.items():
        random, pretrained = out / name / "random", out / name / "pretrained"
        judge(new, tasks, random)
        judge(student, tasks, pretrained, "--compare", str(random))
        keep(random, results / name / "random", REPORTS)
        keep(pretrained, results / name / "pretrained", (*REPORTS, *COMPARISON))
        text = json.dumps(over_seeds(random, pretrained), indent=2)
        (results / name / "over_seeds.json").write_text(text + "\n")
    (results / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n")


if __name__ == "__main__":
    main()
