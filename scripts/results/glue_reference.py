r"""End scores of fine-tuning against those of the Trainer of transformers, pooled over runs.

    rrr fit --config quickstart/bert_teacher.yaml
    python scripts/results/glue_reference.py --out runs/glue-reference \
        --checkpoint runs/quickstart/bert_teacher/checkpoints/last.ckpt --results docs/results/glue

Both start from one exported folder, with the same settings and dropout, and each with its own order
of the data and its own head: the scores must agree up to chance. The checkpoint is of any text
student. Needs `accelerate`. Finished runs are kept; a folder of runs is of one checkpoint. The
tasks are found in `$RRR_DATA/glue`.

It leaves in `against-trainer`, in the folder of results, `runs.json` with the scores of all runs,
the checkpoint and the machine, `table.md`, and the log of every run: `ours-TASK-SEED.csv`, with the
loss at a step, and `theirs-TASK-SEED.csv`, with the Trainer's mean loss since the row before.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from _runs import data_folder, machine
from scipy import stats

from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.export import export_checkpoint
from rrr_lightning.files import read_json
from rrr_lightning.glue.fine_tune import fine_tune
from rrr_lightning.glue.fine_tune import settings_of as cell_of
from rrr_lightning.glue.plan import fingerprint
from rrr_lightning.glue.protocol import find_protocol
from rrr_lightning.glue.results import COUNTED, REPORTED
from rrr_lightning.jobs.process import RESULT, write_json
from rrr_lightning.metrics_file import NAME as LOG
from rrr_lightning.metrics_file import MetricsFile

COMPARED, SEEDS = ("mrpc", "stsb"), (1, 2, 3)
# All positions of the quickstart's network, and a rate for one as narrow.
SETTINGS = {"every_task": {"max_length": 32, "learning_rate": 1e-3}}


def export(checkpoint: Path, folder: Path) -> Path:
    """Returns a folder of the checkpoint."""
    about = folder.with_suffix(".json")
    now = {"checkpoint": checkpoint.name, "fingerprint": fingerprint(str(checkpoint))}
    if about.exists() and read_json(about) != now:
        raise SystemExit(f"{folder.parent} holds runs of another checkpoint: {read_json(about)}")
    if not folder.exists():
        export_checkpoint(checkpoint, folder)
        write_json(about, now)
    return folder


def ours(told: dict[str, Any], folder: Path) -> dict[str, float]:
    """Returns the metrics of a job of `rrr glue`."""
    metrics: dict[str, float] = fine_tune(told, folder)["metrics"]
    return metrics


def theirs(told: dict[str, Any], folder: Path) -> dict[str, float]:
    """Returns the metrics after a training by the Trainer of transformers."""
    transformers.set_seed(told["seed"])
    task = TASKS[told["task"]]
    tokenizer = transformers.AutoTokenizer.from_pretrained(told["checkpoint"])
    network = transformers.AutoModelForSequenceClassification.from_pretrained(
        told["checkpoint"],
        num_labels=len(task.labels) or 1,
        hidden_dropout_prob=told["dropout"],
        attention_probs_dropout_prob=told["dropout"],
    )
    splits = {split: _encoded(told, tokenizer, split) for split in ("train", "validation")}
    # By itself the Trainer would leave biases and norms without decay.
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=told["learning_rate"],
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=told["weight_decay"],
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=told["epochs"],
        per_device_train_batch_size=told["batch_size"],
        per_device_eval_batch_size=64,
        lr_scheduler_type="linear",
        warmup_steps=round(
            told["warmup_fraction"] * told["epochs"] * len(splits["train"]) / told["batch_size"]
        ),
        max_grad_norm=0,
        seed=told["seed"],
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=max(1, cell_of(told).steps(len(splits["train"])) // 200),  # as in our log
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        network,
        arguments,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        train_dataset=splits["train"],  # type: ignore[arg-type]
        optimizers=(optimizer, None),
    )
    trainer.train()
    log = MetricsFile(folder)
    for row in trainer.state.log_history:
        if "loss" in row:  # the last one is a summary
            log.log_metrics({name: row[name] for name in ("loss", "learning_rate")}, row["step"])
    found = trainer.predict(splits["validation"])  # type: ignore[arg-type]
    logits, labels = found.predictions, found.label_ids
    predictions = logits[:, 0] if task.is_regression else logits.argmax(1)
    return {metric.name: metric(predictions, labels) for metric in REPORTED[task.name]}


def _encoded(told: dict[str, Any], tokenizer: Any, split: str) -> list[dict[str, Any]]:
    import pyarrow.parquet

    task = TASKS[told["task"]]
    table = pyarrow.parquet.read_table(Path(told["data"], task.name, f"{split}.parquet"))
    texts = [table[name].to_pylist() for name in task.columns]
    tokens = tokenizer(*texts, truncation=True, max_length=told["max_length"])
    rows = [dict(zip(tokens, row, strict=True)) for row in zip(*tokens.values(), strict=True)]
    labels = table["label"].to_pylist()
    return [{**row, "labels": label} for row, label in zip(rows, labels, strict=True)]


def settings_of(task: str, seed: int, checkpoint: Path) -> dict[str, Any]:
    """Returns what a job of `rrr glue` is told."""
    cell = find_protocol("quick", SETTINGS).tasks[task]
    told = {name: value for name, value in vars(cell).items() if name != "seeds"}
    about = {"task": task, "seed": seed, "checkpoint": str(checkpoint), "start": "checkpoint"}
    more = {"data": str(data_folder() / "glue"), "save_network": False, "predict_test": False}
    return {**told, **about, **more}


def table(runs: list[dict[str, Any]]) -> str:
    """Returns the scores, mean ± standard deviation, and the pooled difference."""
    lines = ["| task | rrr glue | Trainer | difference |", "| --- | --- | --- | --- |"]
    differences: list[list[float]] = []
    for task in COMPARED:
        by_way = {
            way: [100 * run["score"] for run in runs if (run["task"], run["way"]) == (task, way)]
            for way in ("ours", "theirs")
        }
        means = [statistics.mean(scores) for scores in by_way.values()]
        cells = [f"{statistics.mean(s):.2f} ± {statistics.stdev(s):.2f}" for s in by_way.values()]
        lines.append(f"| {task} | {' | '.join(cells)} | {means[0] - means[1]:+.2f} |")
        differences.append([means[0] - means[1], *map(statistics.variance, by_way.values())])
    # Runs are not paired: order and head differ. Variances of all groups are pooled by task.
    n, tasks = len(SEEDS), len(COMPARED)
    mean = statistics.mean(each[0] for each in differences)
    error = math.sqrt(sum(sum(each[1:]) / n for each in differences)) / tasks
    freedom = 2 * tasks * (n - 1)
    half = float(stats.t.ppf(0.975, freedom)) * error
    low, high = mean - half, mean + half
    lines.append(f"| pooled | | | {mean:+.2f}, 95 % interval {low:+.2f} to {high:+.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs what is missing, then writes the runs and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="a checkpoint of a text student"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, required=True, help="folder of runs and table")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # advice on workers and on names that torch has replaced
    body = export(arguments.checkpoint, arguments.out / "body").resolve()
    results = arguments.results / "against-trainer"
    results.mkdir(parents=True, exist_ok=True)
    runs = []
    for task, seed, (way, run) in (
        (task, seed, each)
        for task in COMPARED
        for seed in SEEDS
        for each in (("ours", ours), ("theirs", theirs))
    ):
        folder = arguments.out / f"{way}-{task}-{seed}"
        end, log = folder / f"end-{RESULT}", folder / LOG
        if not (end.exists() and log.exists()):
            folder.mkdir(parents=True, exist_ok=True)
            metrics = run(settings_of(task, seed, body), folder)
            score = statistics.mean(metrics[name] for name in COUNTED[task])
            about = {"task": task, "seed": seed, "way": way}
            write_json(end, {**about, "score": score, "metrics": metrics})
        shutil.copy(log, results / f"{folder.name}.csv")
        runs.append(read_json(end))
        print(runs[-1], flush=True)
    text = table(runs)
    versions = {"transformers": transformers.__version__, "threads": torch.get_num_threads()}
    about = {"machine": {**machine(), **versions}, **read_json(body.with_suffix(".json"))}
    write_json(results / "runs.json", {**about, "runs": runs})
    (results / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
