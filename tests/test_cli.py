"""The command line: what a run writes, what it refuses, and in which words."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from rrr_lightning.cli import main
from rrr_lightning.data.sampling import BatchPlan, KeyedBatches
from tests.cli_runs import FIT, TINY, Command

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of four steps."""
    folder = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "17")
        patch.setenv("PL_SEED_WORKERS", "1")
        patch.setattr(sys, "argv", ["rrr", *FIT, f"--trainer.default_root_dir={folder}"])
        main()
    return str(folder / "checkpoints" / "last.ckpt")


def checkpoint(folder: str) -> dict[str, Any]:
    path = Path(folder, "checkpoints", "last.ckpt")
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def metrics(folder: str) -> list[dict[str, str]]:
    with Path(folder, "metrics.csv").open() as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------------------------- runs


def test_a_run_writes_checkpoint_config_ledger_and_metrics(rrr: Command) -> None:
    rrr(*FIT, "--trainer.default_root_dir=run")
    files = sorted(str(path) for path in Path("run").rglob("*") if path.is_file())
    names = ("checkpoints/last.ckpt", "config.yaml", "ledger.json", "metrics.csv")
    assert files == [f"run/{name}" for name in names]
    assert checkpoint("run")["global_step"] == 4
    assert yaml.safe_load(Path("run/config.yaml").read_text())["seed_everything"] == 17
    assert {int(row["step"]) for row in metrics("run")} == {0, 1, 2, 3}


def test_distillation_leaves_no_trace_in_the_checkpoint(rrr: Command, teacher: str) -> None:
    rrr(*FIT, "--trainer.default_root_dir=plain")
    rrr(*FIT, "--trainer.default_root_dir=distilled", f"--distillation.teachers={teacher}")
    plain, distilled = checkpoint("plain"), checkpoint("distilled")
    assert list(plain["state_dict"]) == list(distilled["state_dict"])
    weights = [float(row["train/distillation_weight"] or 0) for row in metrics("distilled")]
    assert weights[0] == pytest.approx(0.9)
    assert weights[-1] == 0


def test_teachers_do_not_change_the_students_chance(rrr: Command, teacher: str) -> None:
    rrr(*FIT, "--trainer.default_root_dir=plain")
    late = ("--distillation.schedule.start=0.9", "--distillation.schedule.until=1.0")
    distilled = ("--trainer.default_root_dir=late", f"--distillation.teachers={teacher}")
    rrr(*FIT, *distilled, *late)
    first, second = checkpoint("plain")["state_dict"], checkpoint("late")["state_dict"]
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_later_configs_override_earlier_ones_and_flags_override_all(rrr: Command) -> None:
    Path("a.yaml").write_text("trainer: {max_steps: 9, default_root_dir: a}\n")
    Path("b.yaml").write_text("trainer: {max_steps: 2}\ncheckpoint: {every_n_steps: 1}\n")
    rrr("fit", *TINY, "--config=a.yaml", "--config=b.yaml", "--trainer.log_every_n_steps=2")
    saved = yaml.safe_load(Path("a/config.yaml").read_text())
    assert saved["trainer"]["max_steps"] == 2
    assert saved["trainer"]["log_every_n_steps"] == 2
    assert saved["trainer"]["max_epochs"] == -1


def test_shipped_configs_are_found_by_name_unless_a_local_file_exists(rrr: Command) -> None:
    rrr(*FIT, "--config=trainer/cpu.yaml", "--trainer.default_root_dir=shipped")
    saved = yaml.safe_load(Path("shipped/config.yaml").read_text())
    assert saved["trainer"]["precision"] == "32-true"
    Path("trainer").mkdir()
    Path("trainer/cpu.yaml").write_text("trainer: {max_steps: 1, default_root_dir: local}\n")
    rrr("fit", *TINY, "--config=trainer/cpu.yaml")
    assert checkpoint("local")["global_step"] == 1


def test_the_config_of_a_distilled_run_validates_its_checkpoint_without_the_teacher(
    rrr: Command, teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "teacher.ckpt"
    gone.write_bytes(Path(teacher).read_bytes())
    rrr(*FIT, "--trainer.default_root_dir=run", f"--distillation.teachers={gone}")
    before = Path("run/config.yaml").read_text()
    gone.unlink()
    rrr("validate", "--config=run/config.yaml", "--ckpt_path=last")
    assert "val/accuracy" in capsys.readouterr().out
    assert Path("run/config.yaml").read_text() == before


# ---------------------------------------------------------------------------------- resume


def test_a_longer_run_goes_on_where_the_shorter_ended(rrr: Command) -> None:
    rrr(*FIT, "--trainer.default_root_dir=run")
    rrr(*FIT, "--trainer.default_root_dir=run", "--trainer.max_steps=6", "--ckpt_path=last")
    assert checkpoint("run")["global_step"] == 6
    steps = [int(row["step"]) for row in metrics("run") if row["train/loss"]]
    assert steps == list(range(6))


def test_last_without_a_checkpoint_starts_fresh_and_says_so(
    rrr: Command, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        rrr(*FIT, "--trainer.default_root_dir=run", "--ckpt_path=last")
    assert any("starts at step 0" in record.message for record in caplog.records)
    assert checkpoint("run")["global_step"] == 4


@pytest.mark.parametrize("asked", ["last", "run/checkpoints/last.ckpt"])
def test_a_changed_learning_rate_is_refused_by_name(
    asked: str, rrr: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    rrr(*FIT, "--trainer.default_root_dir=run")
    config = Path("run/config.yaml").read_text()
    again = (*FIT, "--trainer.default_root_dir=run", f"--ckpt_path={asked}")
    with pytest.raises(SystemExit) as end:
        rrr(*again, "--model.learning_rate=0.5")
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "learning_rate: differs from the checkpoint's; found 0.5; accepted: 0.1" in line
    assert Path("run/config.yaml").read_text() == config


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ("--data.global_batch_size=20", "data.global_batch_size: differs .*; found 20; accepted: "),
        ("--data.seed=99", "data.seed: differs .*; found 99; accepted: 17 "),
        ("--model.mixup_alpha=0.2", "model.mixup_alpha: differs .*; found 0.2; accepted: 0.0 "),
    ],
)
def test_changed_samples_or_losses_are_refused_by_name(
    changed: str, line: str, rrr: Command, refused: Callable[..., str]
) -> None:
    rrr(*FIT, "--trainer.default_root_dir=run")
    again = refused(*FIT, "--trainer.default_root_dir=run", "--ckpt_path=last", changed)
    assert re.match(line, again), again


def test_teachers_neither_come_nor_go_on_resume_while_they_matter(
    rrr: Command, refused: Callable[..., str], teacher: str
) -> None:
    taught = ("--trainer.default_root_dir=taught", "--distillation.schedule.until=0.75")
    rrr(*FIT, *taught, f"--distillation.teachers={teacher}", "--checkpoint.every_n_steps=2")
    over, taught = "--ckpt_path=last", ("--trainer.default_root_dir=taught",)
    rrr(*FIT, *taught, over)  # nothing is left to distil
    line = refused(*FIT, *taught, over, "--trainer.max_steps=8")
    assert line.startswith("distillation.teachers: the checkpoint's distillation lasts until 0.75 ")
    assert f"found 'none at step 4 of 8'; accepted: {teacher}" in line
    rrr(*FIT, "--trainer.default_root_dir=plain")
    again = ("--trainer.default_root_dir=plain", "--ckpt_path=last", "--trainer.max_steps=8")
    line = refused(*FIT, *again, f"--distillation.teachers={teacher}")
    assert line.startswith("distillation.teachers: the checkpoint's 4 steps were made without")
    allowed = "--distillation.allow_teacher_change=true"
    rrr(*FIT, *again, f"--distillation.teachers={teacher}", allowed)


# ---------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--trainer.max_stepss=3"],
            "trainer.max_stepss: no such key; did you mean 'trainer.max_steps'?",
        ),
        (
            ["--distillation.schedule.untl=1"],
            "distillation.schedule.untl: no such key; did you mean 'distillation.schedule.until'?",
        ),
        (
            ["--model.learning_rat=1"],
            "model.learning_rat: no such key; did you mean 'learning_rate'?",
        ),
        (
            ["--model=ImageClasifier"],
            "model: no such class; found 'ImageClasifier'; did you mean 'ImageClassifier'?",
        ),
        (
            ["--config=trainer/cpuu.yaml"],
            "did you mean 'trainer/cpu.yaml'?; found 'trainer/cpuu.yaml'",
        ),
        (
            ["--trainer.max_steps=-1"],
            "trainer.max_steps: the number of optimizer steps must be set",
        ),
        (
            ["--distillation.schedule.until=0.3"],
            "distillation.schedule.until: there are no teachers to use it with",
        ),
        (["--distillation.loss=LogitMSE"], "distillation.loss: there are no teachers"),
        (
            ["--distillation.teachers=[]", "--distillation.pool.seed=3"],
            "distillation.pool.seed: there are no teachers to use it with",
        ),
        (
            ["--distillation.teachers=nowhere.ckpt"],
            "distillation.teachers[0]",
        ),
        (
            ["--distillation.teachers=x.ckpt", "--distillation.schedule.until=1.5"],
            "distillation.schedule.until: out of range; found 1.5",
        ),
        (
            ["--distillation.teachers=x.ckpt", "--distillation.pool.per_step=2"],
            "distillation.pool.per_step: out of range; found 2",
        ),
        (
            [
                "--distillation.teachers=x.ckpt",
                "--distillation.loss=KLDivergence",
                "--distillation.loss.temperature=0",
            ],
            "distillation.loss.temperature",
        ),
        (["--model.num_classes=1"], "num_classes: out of range; found 1"),
        (["--model.momentum=-1"], "momentum: out of range; found -1"),
        (["--trainer.accelerator=gpuu"], "trainer: no trainer can be made: "),
        (["--ckpt_path=nowhere.ckpt"], "ckpt_path: no such checkpoint; found 'nowhere.ckpt'"),
        (["--checkpoint.every_n_steps=0"], "checkpoint.every_n_steps: must be positive; found 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_ends_with_one_line_and_no_folder(
    arguments: list[str], line: str, refused: Callable[..., str]
) -> None:
    assert line in refused(*FIT, "--trainer.default_root_dir=run", *arguments)
    assert not Path("run").exists()


def test_an_unknown_command_offers_the_nearest(refused: Callable[..., str]) -> None:
    assert refused("fitt") == "no such command; found 'fitt'; did you mean 'fit'?"


def test_a_misspelt_key_in_a_file_offers_the_nearest(refused: Callable[..., str]) -> None:
    Path("a.yaml").write_text("distillation: {schedule: {untill: 0.5}}\n")
    line = "distillation.schedule.untill: no such key; did you mean 'distillation.schedule.until'?"
    assert refused(*FIT, "--config=a.yaml") == line
    Path("a.yaml").write_text("distilation: {schedule: {until: 0.5}}\n")
    line = "distilation.schedule.until: no such key; did you mean 'distillation'?"
    assert refused(*FIT, "--config=a.yaml") == line


def test_a_run_folder_that_is_a_file_is_refused(refused: Callable[..., str]) -> None:
    Path("run").write_text("mine")
    line = refused(*FIT, "--trainer.default_root_dir=run")
    assert line.startswith("trainer.default_root_dir: run is no folder; found 'run'")
    assert Path("run").read_text() == "mine"


def test_a_folder_with_checkpoints_is_refused(rrr: Command, refused: Callable[..., str]) -> None:
    rrr(*FIT, "--trainer.default_root_dir=run")
    line = refused(*FIT, "--trainer.default_root_dir=run")
    assert line.startswith("trainer.default_root_dir: the folder holds the checkpoints of a run")
    assert "--ckpt_path last" in line


def test_a_cut_checkpoint_is_refused(refused: Callable[..., str], teacher: str) -> None:
    Path("cut.ckpt").write_bytes(Path(teacher).read_bytes()[:5000])
    line = refused(*FIT, "--ckpt_path=cut.ckpt")
    assert line.startswith("ckpt_path: cut.ckpt cannot be read: it is truncated")


def test_a_checkpoint_of_another_network_is_refused(
    refused: Callable[..., str], teacher: str
) -> None:
    line = refused(*FIT, "--model.network=cifar_resnet14", f"--ckpt_path={teacher}")
    assert line.startswith("ckpt_path: the weights do not fit the network")


def test_a_teacher_of_another_class_count_is_refused(
    refused: Callable[..., str], teacher: str
) -> None:
    line = refused(*FIT, "--model.num_classes=7", f"--distillation.teachers={teacher}")
    assert line.startswith("distillation.teachers[0]")
    assert "found 10" in line
    assert re.search(r"accepted: 7\b", line), line
    assert not Path("runs").exists()


@pytest.mark.ddp
def test_two_ranks_print_one_line_and_both_exit_with_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rrr_lightning", *FIT, "--model.num_classes=7"]
    command += ["--trainer.devices=2", "--trainer.strategy=ddp"]
    run = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert run.stderr.count("rrr: error:") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.ddp
@pytest.mark.parametrize("rank", [0, 1])
def test_a_refusal_on_one_rank_alone_ends_both_with_its_line(tmp_path: Path, rank: int) -> None:
    plan = BatchPlan(2, None, world_size=2, rank=rank)
    [(_, index)] = KeyedBatches(8, plan, seed=17, step=lambda: 0).micro_batch(0, 0)
    for split, number in [(s, n) for s in ("train", "val") for n in range(8)]:
        folder = tmp_path / "images" / split / "ab"[number // 4]
        folder.mkdir(parents=True, exist_ok=True)
        image = folder / f"{number}.png"
        Image.new("RGB", (16, 16)).save(image)
        if (split, number) == ("train", index):
            image.write_bytes(b"no image")
    command = [sys.executable, "-m", "rrr_lightning", *FIT, "--data=ImageDataModule"]
    command += ["--data.source=images", "--data.global_batch_size=2", "--data.num_workers=0"]
    command += ["--data.crop_size=16", "--data.resize_size=16", "--model.num_classes=2"]
    command += ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.num_sanity_val_steps=0"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert run.returncode == 2
    assert run.stderr.count("rrr: error:") == 1
    assert f"image {index}" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "runs").exists()


def test_help_fits_on_a_few_screens_and_all_of_it_is_there_when_needed(
    rrr: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*arguments: str) -> list[str]:
        with pytest.raises(SystemExit) as end:
            rrr("fit", *arguments)
        assert end.value.code == 0
        return capsys.readouterr().out.splitlines()

    short = printed("--help")
    assert len(short) < 200
    assert max(map(len, short)) <= 100
    for option in ("--trainer.max_steps -1", "--distillation.schedule.until 0.5", "--ckpt_path"):
        assert any(line.startswith(f"  {option} ") for line in short), option
    whole = printed("--help=all")
    assert any("torch.nn." in line for line in whole)
    assert not any("torch.nn." in line for line in short)
    described = printed("--model.help=ImageClassifier")
    assert any("--model.label_smoothing" in line for line in described)
