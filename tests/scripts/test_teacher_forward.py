from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # each test starts a process that imports Lightning
SCRIPT = ROOT / "scripts" / "benchmarks" / "teacher_forward.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_forwards_are_timed_without_data(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    size = ("--repeats", "2", "--steps", "2", "--only", "ResNet-20")
    found = run("--device", "cpu", *size, "--json", str(file))
    assert found.returncode in (0, 1), found.stderr
    (row,) = json.loads(file.read_text())
    assert row["name"] == "ResNet-20, 32 pixels: seconds / eager float32"
    assert {"ratio", "low", "high", "goal", "n", "device", "machine"} <= set(row)
    assert 0.1 < row["ratio"] < 1.5


def test_another_precision_is_compared_and_not_timed(tmp_path: Path) -> None:
    import numpy as np
    from datasets import ClassLabel, Dataset, Features, Image

    folder, names = tmp_path / "cifar10", [str(number) for number in range(10)]
    folder.mkdir()
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    for split, count in (("train", 160), ("test", 40)):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
        columns = {"image": list(pixels), "label": [number % 10 for number in range(count)]}
        Dataset.from_dict(columns, features).to_parquet(str(folder / f"{split}.parquet"))
    file = tmp_path / "rows.json"
    size = ("--train-steps", "2", "--only", "ResNet-20", "--precision", "16")
    found = run("--data", str(tmp_path), *size, "--json", str(file))
    assert found.returncode in (0, 1), found.stderr
    (row,) = json.loads(file.read_text())
    assert row["name"] == "ResNet-20, 32 pixels, in 16: top-1 agreement with float32"
    assert row["n"] == 40
    assert abs(row["mean_kl_nats"]) < 1e-3  # after two steps little but rounding


def test_a_teacher_of_ones_own_is_compared_on_its_images(tmp_path: Path) -> None:
    import torch
    from torchvision.models import resnet18
    from torchvision.transforms.functional import to_pil_image

    for split in ("train", "val"):
        for name in ("a", "b"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                pixels = torch.randint(256, (3, 260, 240), dtype=torch.uint8)
                to_pil_image(pixels).save(folder / f"{number}.jpg")
    torch.save(resnet18(num_classes=2).state_dict(), tmp_path / "two.pt")
    spec = f"torchvision:resnet18?checkpoint={tmp_path / 'two.pt'}&num_classes=2"
    found = run(
        "--teacher", spec, "--images", str(tmp_path), "--repeats", "1", "--steps", "1",
        "--json", str(tmp_path / "rows.json"),
    )  # fmt: skip
    assert found.returncode in (0, 1), found.stderr
    seconds, agreement = json.loads((tmp_path / "rows.json").read_text())
    assert seconds["n"] == 1
    assert (agreement["n"], agreement["goal"], agreement["rule"]) == (4, 0.995, "at least")
    assert agreement["low"] <= agreement["ratio"] <= agreement["high"]


def test_a_teacher_needs_its_images() -> None:
    found = run("--teacher", "a.ckpt")
    assert found.returncode == 2
    assert "--teacher and --images go together" in found.stderr
