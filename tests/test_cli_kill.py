"""A run that is killed and resumed from the command line ends as if nothing had happened."""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rrr_lightning.cli import main
from rrr_lightning.metrics_file import read_rows
from rrr_lightning.models.image_classifier import ImageClassifier

STEPS = 12


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """State dicts of two small networks."""
    files = []
    for seed in range(2):
        network = ImageClassifier("cifar_resnet8", 10, seed=seed).network
        files.append(str(tmp_path_factory.mktemp("teachers") / f"{seed}.pt"))
        torch.save(network.state_dict(), files[-1])
    return files


def make_config(folder: Path, teachers: list[str], **trainer: Any) -> dict[str, Any]:
    network = {
        "class_path": "rrr_lightning.models.image_networks.CifarResNet",
        "init_args": {"depth": 8, "num_classes": 10},
    }
    return {
        "trainer": {
            "default_root_dir": str(folder),
            "max_steps": STEPS,
            "accelerator": "cpu",
            "devices": 1,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "val_check_interval": 5,
            "check_val_every_n_epoch": None,
            "limit_val_batches": 1,
            **trainer,
        },
        "model": {
            "class_path": "ImageClassifier",
            "init_args": {
                "network": {
                    "class_path": "tests.killed.Dropping",
                    "init_args": {"num_classes": 10},
                },
                "num_classes": 10,
                "mixup_alpha": 0.2,
                "learning_rate": 0.1,
                "warmup_steps": 2,
            },
        },
        "data": {
            "class_path": "EmbeddedDigits",
            "init_args": {"global_batch_size": 60, "micro_batch_size": 20},
        },
        "distillation": {
            "teachers": [{"model": network, "checkpoint": file} for file in teachers],
            "schedule": {"until": 0.5},
        },
        "checkpoint": {"every_n_steps": 2},
    }


def run(
    folder: Path, config: dict[str, Any], resume: bool = False, start: str = "fork", **journal: Any
) -> int:
    """Runs `rrr fit` in a process of its own; returns its exit code, or minus the signal.

    A fork spares the imports, which take longer than the run. Runs that fork ranks themselves are
    spawned, as they must start from a process in which nothing has touched CUDA.
    """
    folder.mkdir(exist_ok=True)
    callback = {"class_path": "tests.killed.Journal"}
    callback["init_args"] = {"file": str(folder / "journal"), **journal}
    config = {**config, "trainer": {**config["trainer"], "callbacks": [callback]}}
    asked = folder / "asked.yaml"
    asked.write_text(yaml.safe_dump(config))
    arguments = ["rrr", "fit", "--config", str(asked), *(["--ckpt_path", "last"] * resume)]
    process = multiprocessing.get_context(start).Process(target=_main, args=(arguments,))
    process.start()
    process.join(timeout=200)
    process.kill()
    return process.exitcode if process.exitcode is not None else -signal.SIGALRM


def _main(arguments: list[str]) -> None:
    sys.argv = arguments
    main()


def read_journal(folder: Path, rank: int = 0) -> dict[tuple[int, int], Any]:
    """What each (step, micro-batch) saw; one that ran twice must have seen the same."""
    seen: dict[tuple[int, int], Any] = {}
    for line in (folder / f"journal.rank{rank}").read_text().splitlines():
        step, micro, *rest = json.loads(line)
        assert seen.setdefault((step, micro), rest) == rest
    return seen


def last(folder: Path, step: int = STEPS) -> dict[str, Any]:
    checkpoint: dict[str, Any]
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == step
    return checkpoint


def read_metrics(folder: Path) -> list[tuple[str, ...]]:
    """What the callback logged at each step: teacher, weight, losses, agreement."""
    columns, rows = read_rows(folder / "metrics.csv")
    logged = sorted(name for name in columns if name.startswith("train/"))
    assert "train/teacher" in logged
    return [(row["step"], *(row[name] for name in logged)) for row in rows if row["train/loss"]]


def assert_same_end(one: Path, other: Path, ranks: int = 1) -> None:
    for rank in range(ranks):
        assert read_journal(one, rank) == read_journal(other, rank)
    assert len(read_metrics(one)) == STEPS
    assert read_metrics(one) == read_metrics(other)
    states = [last(folder)["state_dict"] for folder in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    optimizers = [last(folder)["optimizer_states"][0]["state"] for folder in (one, other)]
    for index, state in optimizers[0].items():
        assert torch.equal(state["momentum_buffer"], optimizers[1][index]["momentum_buffer"])


# inside the window, in the middle of an accumulation, after the window, in the second epoch
KILLS = [[3, 0], [5, 1], [8, 2]]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_three_times(tmp_path: Path, teachers: list[str], workers: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        config = make_config(folder, teachers)
        config["data"]["init_args"]["num_workers"] = workers
        if folder == whole:
            assert run(folder, config) == 0
            continue
        for number, point in enumerate(KILLS):
            assert run(folder, config, resume=number > 0, kill_at=point) == -signal.SIGKILL
        assert run(folder, config, resume=True) == 0
    assert len({step for step, _ in read_journal(whole)}) == STEPS
    assert_same_end(whole, killed)


@pytest.mark.slow
def test_killed_in_a_save(tmp_path: Path, teachers: list[str]) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, make_config(whole, teachers)) == 0
    config = make_config(killed, teachers)
    assert run(killed, config, kill_in_save=3) == -signal.SIGKILL
    kept = sorted(path.name for path in (killed / "checkpoints").iterdir())
    assert kept == [".last.ckpt.part", "last.ckpt"]
    assert run(killed, config, resume=True) == 0
    assert [path.name for path in (killed / "checkpoints").iterdir()] == ["last.ckpt"]
    assert_same_end(whole, killed)


@pytest.mark.slow
@pytest.mark.ddp
def test_two_ranks_killed(tmp_path: Path, teachers: list[str]) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        config = make_config(folder, teachers, devices=2, strategy="ddp_fork")
        config["data"]["init_args"]["micro_batch_size"] = 10
        if folder == killed:
            # inside the window, and after it
            assert run(folder, config, start="spawn", kill_at=[4, 1]) != 0
            assert last(folder, 4)
            assert run(folder, config, True, start="spawn", kill_at=[9, 0]) != 0
            assert last(folder, 8)
        assert run(folder, config, folder == killed, start="spawn") == 0
    assert_same_end(whole, killed, ranks=2)
