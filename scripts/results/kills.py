"""Kills runs at keyed moments by three signals, resumes them, and compares with runs left alone.

    python scripts/results/kills.py --out runs/kills --json docs/results/kills.json --moments 10

Four kinds of runs (images, words, distilled images, distilled images on two ranks) are each killed
by SIGINT, SIGTERM and SIGKILL at `--moments` moments, and resumed by the same command. Checked for
each: the exit code; at most one validation interval is lost, by SIGINT and SIGTERM nothing; the
last weights equal those of the run left alone to the bit; `metrics.csv` equals its file. Runs are
forks of this process, which has everything imported, so that a moment falls into training.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import torch
from _runs import data_folder, machine

from rrr_lightning.cli import main as rrr
from rrr_lightning.keyed_rng import key_seed
from rrr_lightning.metrics_file import read_rows

STEPS, INTERVAL = 40, 5
SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}
BOTH = (
    "--trainer.accelerator=cpu", f"--trainer.max_steps={STEPS}", "--trainer.log_every_n_steps=1",
    f"--trainer.val_check_interval={INTERVAL}", "--trainer.check_val_every_n_epoch=null",
    "--trainer.limit_val_batches=1", "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false", "--trainer.num_sanity_val_steps=0",
)  # fmt: skip
IMAGES = (
    *BOTH, "--model=ImageClassifier", "--model.network=cifar_resnet8", "--model.num_classes=10",
    "--model.learning_rate=0.1", "--model.mixup_alpha=0.2", "--data=EmbeddedDigits",
    "--data.global_batch_size=60",
)  # fmt: skip
NETWORK = (
    "{model_type: bert, num_hidden_layers: 2, hidden_size: 32, num_attention_heads: 2,"
    " intermediate_size: 64, max_position_embeddings: 32}"
)


def kinds(out: Path) -> dict[str, tuple[tuple[str, ...], int]]:
    """Returns the options and the number of ranks of every kind of run."""
    text = data_folder() / "text"
    words = (
        *BOTH, "--model=MaskedLanguageModel", f"--model.network={NETWORK}",
        "--model.learning_rate=0.001", "--data=TextDataModule", f"--data.source={text}",
        f"--data.tokenizer={data_folder() / 'bert-base-uncased'}", "--data.sequence_length=32",
        "--data.max_documents=400", "--data.max_val_documents=50", "--data.num_workers=0",
        f"--data.cache_dir={out / 'cache'}", "--data.global_batch_size=16",
    )  # fmt: skip
    taught = (
        *IMAGES, "--data.micro_batch_size=30", "--distillation.schedule.until=0.5",
        f"--distillation.teachers={out / 'teacher' / 'checkpoints' / 'last.ckpt'}",
    )  # fmt: skip
    return {
        "images": (IMAGES, 1),
        "words": (words, 1),
        "distilled": (taught, 1),
        "two ranks": (taught, 2),
    }


def start(folder: Path, options: tuple[str, ...], ranks: int) -> list[Any]:
    """Starts the ranks of `rrr fit` as torchrun would, as forks of this process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    arguments = ["rrr", "fit", *options, f"--trainer.default_root_dir={folder}", "--ckpt_path=last",
                 f"--trainer.devices={ranks}"]  # fmt: skip
    processes = [
        context.Process(target=_main, args=(arguments, n, ranks, port)) for n in range(ranks)
    ]
    for process in processes:
        process.start()
    return processes


def _main(arguments: list[str], rank: int, ranks: int, port: int) -> None:
    os.setpgrp()  # a signal of the terminal shall reach the run alone
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if ranks > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks,
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "kills",
                 "GROUP_RANK": 0}  # fmt: skip
        os.environ |= {name: str(value) for name, value in names.items()}
    sys.argv = arguments
    rrr()


def end(processes: list[Any]) -> list[int | None]:
    """Waits for all ranks; one that outlives the others by 20 s is killed."""
    deadline = time.monotonic() + 300
    while any(process.is_alive() for process in processes):
        if not all(process.is_alive() for process in processes):
            deadline = min(deadline, time.monotonic() + 20)
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.02)
    return [process.exitcode for process in processes]


def steps_done(folder: Path) -> int:
    """Returns the optimizer steps in the run's metrics."""
    rows = read_rows(folder / "metrics.csv")[1] if (folder / "metrics.csv").exists() else []
    return 1 + max((int(row["step"]) for row in rows), default=-1)


def state(folder: Path) -> dict[str, Any]:
    """Returns the run's last checkpoint."""
    content: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return content


def metrics(folder: Path) -> list[dict[str, str]]:
    """Returns the rows of the run's metrics, costs left out, which no two runs share."""
    rows = read_rows(folder / "metrics.csv")[1]
    kept = ({k: v for k, v in row.items() if not k.startswith("cost/")} for row in rows)
    return [row for row in kept if any(v for k, v in row.items() if k not in ("step", "epoch"))]


def one_kill(
    whole: Path,
    folder: Path,
    options: tuple[str, ...],
    ranks: int,
    name: str,
    after_step: int,
    pause: float,
) -> dict[str, Any]:
    """Kills one run after a step and a pause, resumes it, and says what was found."""
    processes = start(folder, options, ranks)
    while steps_done(folder) < after_step and all(process.is_alive() for process in processes):
        time.sleep(0.002)
    time.sleep(pause)
    reached = steps_done(folder)
    for process in processes:
        if process.is_alive():
            os.kill(process.pid, SIGNALS[name])
    codes = end(processes)
    saved = state(folder)["global_step"] if (folder / "checkpoints" / "last.ckpt").exists() else 0
    resumed = end(start(folder, options, ranks))
    first, second = state(whole), state(folder)
    same = all(torch.equal(first["state_dict"][k], v) for k, v in second["state_dict"].items())
    expected = -SIGNALS[name] if name == "SIGKILL" else 128 + SIGNALS[name]
    finished = saved == STEPS
    return {
        "after_step": after_step,
        "saved_step": saved,
        "lost_steps": max(0, reached - saved),
        "codes": codes,
        "right_code": finished or all(code == expected for code in codes[:1]),
        "within_interval": max(0, reached - saved) <= (INTERVAL + 1 if name == "SIGKILL" else 0),
        "resumed": resumed == [0] * ranks,
        "same_weights": same and second["global_step"] == STEPS,
        "same_metrics": metrics(whole) == metrics(folder),
    }


def campaign(out: Path, moments: int, chosen: list[str]) -> dict[str, Any]:
    """Runs all kills that have no record yet; returns the records."""
    end(start(out / "teacher", (*IMAGES, "--seed_everything=3"), 1))
    records: dict[str, Any] = {}
    for kind, (options, ranks) in kinds(out).items():
        if kind not in chosen:
            continue
        whole = out / kind.replace(" ", "-") / "whole"
        if not (whole / "checkpoints" / "last.ckpt").exists():
            assert end(start(whole, options, ranks)) == [0] * ranks, kind
        for name in SIGNALS:
            for moment in range(moments):
                folder = whole.with_name(f"{name}-{moment}")
                record = folder.with_suffix(".json")
                if not record.exists():
                    shutil.rmtree(folder, ignore_errors=True)
                    seed = key_seed(0, kind, name, moment)
                    after, pause = 1 + seed % (STEPS - 2), (seed // 97) % 40 / 1000
                    found = one_kill(whole, folder, options, ranks, name, after, pause)
                    record.write_text(json.dumps(found))
                    print(kind, name, found, flush=True)
                records[f"{kind}, {name}, {moment}"] = json.loads(record.read_text())
    return records


CHECKS = ("right_code", "within_interval", "resumed", "same_weights", "same_metrics")


def main() -> None:
    """Runs the campaign and writes its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--json", type=Path, required=True, help="the file of the figures")
    parser.add_argument("--moments", type=int, default=10, help="kills of a kind by a signal")
    parser.add_argument("--kinds", nargs="*", default=["images", "words", "distilled", "two ranks"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    records = campaign(args.out.absolute(), args.moments, args.kinds)
    summary = {check: sum(record[check] for record in records.values()) for check in CHECKS}
    content = {"kills": len(records), **summary, "steps": STEPS, "interval": INTERVAL, **machine()}
    args.json.write_text(json.dumps({**content, "records": records}) + "\n")
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
