"""Every shipped configuration, through the command line: it parses, and fits two steps in small."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from rrr_lightning.cli import main
from rrr_lightning.data.glue_tasks import TASKS
from tests.data.glue_files import write_parquet, write_tokenizer

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RUNS = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.rglob("*.yaml")
    if "model" in yaml.safe_load(path.read_text())
)
OVERLAYS = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("trainer/*.yaml"))
SMALL = (
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.strategy=auto",
    "--trainer.precision=32-true",
    "--trainer.max_steps=2",
    "--trainer.limit_val_batches=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.log_every_n_steps=1",
)
# How the data and the network of a data module's configurations are made small.
SMALL_DATA: dict[str, Callable[[Path], tuple[str, ...]]] = {}


def small(data_module: str) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        SMALL_DATA[data_module] = function
        return function

    return register


@small("EmbeddedDigits")
def digits(folder: Path) -> tuple[str, ...]:
    return ("--model.network=cifar_resnet8",)


@small("ImageDataModule")
def images(folder: Path) -> tuple[str, ...]:
    for split, label, number in [(s, c, n) for s in ("train", "val") for c in "ab" for n in "01"]:
        path = folder / "images" / split / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), color=(90 * int(number), 60, 30)).save(path)
    return (
        f"--data.source={folder / 'images'}",
        "--data.global_batch_size=2",
        "--data.micro_batch_size=2",
        "--data.crop_size=32",
        "--data.resize_size=32",
        "--data.num_workers=0",
        "--model.network=cifar_resnet8",
        "--model.num_classes=2",
    )


@small("TextDataModule")
def text(folder: Path) -> tuple[str, ...]:
    sentence = "the cat sat on a mat and saw one more dog run far from its old house"
    words = sentence.split()
    (folder / "text").mkdir(exist_ok=True)
    for split, first in (("train", 0), ("validation", 500)):
        lines = (
            " ".join(words[(n * k) % 16] for k in range(3, 20)) for n in range(first, first + 40)
        )
        documents = "".join(f"{json.dumps({'text': line})}\n" for line in lines)
        (folder / "text" / f"{split}.jsonl").write_text(documents)
    network = {"model_type": "bert", "num_hidden_layers": 1, "hidden_size": 16}
    network |= {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16}
    return (
        f"--data.source={folder / 'text'}",
        "--data.config=null",
        "--data.tokenizer=train:100",
        "--data.sequence_length=16",
        "--data.global_batch_size=4",
        "--data.micro_batch_size=2",
        "--data.num_workers=0",
        f"--data.cache_dir={folder / 'cache'}",
        f"--model.network={json.dumps(network)}",
        "--model.vocabulary_size=67",
        "--trainer.val_check_interval=2",
    )


@small("GlueDataModule")
def glue(folder: Path) -> tuple[str, ...]:
    for task in TASKS:
        write_parquet(folder / "glue", task, train=20, other=4)
    network = {"model_type": "bert", "num_hidden_layers": 1, "hidden_size": 16, "vocab_size": 128}
    network |= {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32}
    return (
        f"--data.source={folder / 'glue'}",
        f"--data.tokenizer={write_tokenizer(folder / 'tokenizer')}",
        "--data.max_length=32",
        "--data.global_batch_size=4",
        f"--model.body={json.dumps(network)}",
        "--trainer.val_check_interval=2",
    )


def content(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CONFIGS / name).read_text())
    return loaded


def rrr(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    for key in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # left by `seed_everything`
        monkeypatch.setenv(key, "0")
    monkeypatch.setattr(sys, "argv", ["rrr", *arguments])
    main()


def keys(value: Any, prefix: str = "") -> set[str]:
    if not isinstance(value, dict):
        return {prefix}
    return set().union(*(keys(each, f"{prefix}.{name}") for name, each in value.items()))


def test_there_are_configurations() -> None:
    assert {"quickstart/distill.yaml", "resnet50/distill_pool.yaml"} <= set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_it_fits_two_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = content(name)
    shrink = SMALL_DATA[run["data"]["class_path"]](tmp_path)
    if "warmup_steps" in run["model"]["init_args"]:
        shrink += ("--model.warmup_steps=1",)
    if "distillation" in run:
        plain = re.sub(r"distill\w*\.yaml", "baseline.yaml", name)
        rrr(
            monkeypatch, "fit", f"--config={plain}", "--trainer.default_root_dir=t", *SMALL, *shrink
        )
        given = run["distillation"]["teachers"]
        count = len(given) if isinstance(given, list) else 1
        shrink += (f"--distillation.teachers={['t/checkpoints/last.ckpt'] * count}",)
    rrr(monkeypatch, "fit", f"--config={name}", *SMALL, *shrink)
    folder = Path("runs") / Path(name).with_suffix("")
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert ("DistillationCallback" in checkpoint["callbacks"]) == ("distillation" in run)


@pytest.mark.parametrize("name", [name for name in RUNS if "distillation" in content(name)])
def test_it_is_the_baseline_plus_distillation(name: str) -> None:
    distilled = content(name)
    del distilled["distillation"]
    assert distilled == content(re.sub(r"distill\w*\.yaml", "baseline.yaml", name))


def header(name: str) -> str:
    return re.split(r"^[^#]", (CONFIGS / name).read_text(), maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("name", RUNS)
def test_its_header_says_how_to_run_it(name: str) -> None:
    assert f"rrr fit --config {name}" in header(name)


@pytest.mark.parametrize("name", [name for name in RUNS if name.startswith(("resnet50", "bert"))])
def test_its_header_says_what_to_expect(name: str) -> None:
    text = " ".join(header(name).replace("#", " ").split()).lower()
    assert "hardware" in text
    if "no figure is published for this setting; hours not measured" in text:
        return
    assert "published figures, not measured here." in text
    assert re.search(r"metrics?: [^.]*\d", text)
    assert re.search(r"hours: \d", text)


@pytest.mark.parametrize("name", RUNS)
def test_it_bounds_the_run_and_names_no_machine(name: str) -> None:
    trainer = content(name)["trainer"]
    assert trainer["max_steps"] > 0
    assert trainer["max_epochs"] == -1
    assert "default_root_dir" not in trainer
    assert not re.search(r": /", (CONFIGS / name).read_text())


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_trainer_overlay_parses_over_a_run(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ("--config=quickstart/baseline.yaml", f"--config={name}")
    with pytest.raises(SystemExit) as end:
        rrr(monkeypatch, "fit", *both, "--print_config")
    assert end.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)["trainer"]
    overlay = content(name)["trainer"]
    assert {key: printed[key] for key in overlay} == overlay
