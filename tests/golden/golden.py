"""Makes the golden figures: what short runs on real data end with, to the last bit.

    python tests/golden/golden.py --out golden.json      # before a change of structure
    python tests/golden/golden.py --compare golden.json  # after it; exits with 1 on a difference

The figures are SHA-256 digests of final weights (images with a pool of two teachers and
accumulation, the same on stored targets, masked words from a table and from a stream, two of them
also killed and resumed), the printed configurations of all that ship, the committed CIFAR-10 study
reported again, and GLUE scores on CoLA and RTE. Weights depend on the processor, so compare on the
machine that made them. It takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RRR_DATA", ROOT.parent / "shared" / "data"))
QUIET = (
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.log_every_n_steps=1",
)
IMAGES = (
    *QUIET,
    "--model=ImageClassifier",
    "--model.network=cifar_resnet8",
    "--model.num_classes=10",
    "--model.learning_rate=0.1",
    "--data=ImageDataModule",
    f"--data.source={DATA / 'cifar10'}",
    "--data.transform=cifar",
    "--data.global_batch_size=64",
    "--data.num_workers=0",
    "--trainer.limit_val_batches=2",
)
POOLED = (
    "--data.micro_batch_size=32",
    "--trainer.max_steps=12",
    "--trainer.val_check_interval=8",
    "--distillation.schedule.until=0.75",
)
WORDS = (
    *QUIET,
    "--model=MaskedLanguageModel",
    "--model.network={model_type: bert, num_hidden_layers: 2, hidden_size: 64,"
    " num_attention_heads: 2, intermediate_size: 128, max_position_embeddings: 128,"
    " initializer_range: 0.1}",
    "--model.learning_rate=0.002",
    "--data=TextDataModule",
    f"--data.tokenizer={DATA / 'bert-base-uncased'}",
    "--data.sequence_length=48",
    "--data.global_batch_size=16",
    "--data.num_workers=0",
    "--trainer.limit_val_batches=2",
)


def rrr(*arguments: str, check: bool = True, kill_after: str | None = None) -> None:
    """Runs a command; kills it with SIGKILL once the file `kill_after` exists."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rrr_lightning", *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if kill_after is not None:
        while process.poll() is None and not Path(kill_after).exists():
            pass
        process.kill()
    error = process.communicate()[1]
    if check and kill_after is None and process.returncode:
        raise RuntimeError(f"rrr {' '.join(arguments)}\n{error}")


def weights(run: str | Path) -> str:
    """Returns the SHA-256 of a run's last weights, by name."""
    import torch

    path = Path(run, "checkpoints", "last.ckpt")
    state = torch.load(path, weights_only=True)["state_dict"]
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].cpu().numpy().tobytes())
    return digest.hexdigest()


def fit(folder: str, *arguments: str) -> str:
    rrr("fit", *arguments, f"--trainer.default_root_dir={folder}")
    return weights(folder)


def killed_and_resumed(folder: str, *arguments: str) -> str:
    """Kills a run after its first checkpoint, resumes it, and returns its last weights."""
    to = (*arguments, f"--trainer.default_root_dir={folder}", "--checkpoint.every_n_steps=3")
    rrr("fit", *to, kill_after=f"{folder}/checkpoints/last.ckpt")
    rrr("fit", *to, "--ckpt_path=last")
    return weights(folder)


def image_figures() -> dict[str, Any]:
    """Returns the digests of image runs."""
    for seed in ("1", "2"):
        fit(f"teacher-{seed}", *IMAGES, "--trainer.max_steps=8", f"--seed_everything={seed}")
    teachers = ", ".join(f"teacher-{seed}/checkpoints/last.ckpt" for seed in ("1", "2"))
    pool = (*IMAGES, *POOLED, f"--distillation.teachers=[{teachers}]")
    found = {"plain": weights("teacher-1"), "pool": fit("pool", *pool)}
    found["pool killed and resumed"] = killed_and_resumed("pool-killed", *pool)
    rrr("targets", *pool, "--out=targets", "--trainer.default_root_dir=unused")
    stored = (*IMAGES, *POOLED, "--distillation.targets=targets")
    return {**found, "stored targets": fit("stored", *stored)}


def text_folder() -> None:
    """Writes 400 documents as JSON lines in four files, and 40 for validation."""
    import pyarrow.parquet as parquet

    table = parquet.read_table(DATA / "text" / "train.parquet", columns=["text"])
    texts = table.slice(0, 440).column("text").to_pylist()
    Path("text").mkdir()
    for number in range(4):
        lines = [json.dumps({"text": text}) for text in texts[number:400:4]]
        Path(f"text/train-{number:05}.jsonl").write_text("\n".join(lines) + "\n")
    lines = [json.dumps({"text": text}) for text in texts[400:]]
    Path("text/validation.jsonl").write_text("\n".join(lines) + "\n")


def text_figures() -> dict[str, Any]:
    """Returns the digests of masked-LM runs."""
    text_folder()
    words = (*WORDS, "--data.source=text")
    fit("bert-teacher", *words, "--trainer.max_steps=8", "--seed_everything=1")
    taught = (
        *words,
        "--trainer.max_steps=10",
        "--distillation.teachers=bert-teacher/checkpoints/last.ckpt",
        "--distillation.loss.class_path=KLDivergence",
        "--distillation.loss.init_args.temperature=1.0",
        "--data.micro_batch_size=8",
        "--trainer.val_check_interval=8",
    )
    found = {
        "table": fit("bert-table", *taught),
        "stream": fit("bert-stream", *taught, "--data.streaming=true"),
    }
    resumed = killed_and_resumed("bert-killed", *taught, "--data.streaming=true")
    return {**found, "stream killed and resumed": resumed}


def config_figures() -> dict[str, str]:
    """Returns every shipped configuration, printed in full."""
    from contextlib import redirect_stdout
    from io import StringIO

    from rrr_lightning.cli import main

    found = {}
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        name = str(path.relative_to(ROOT / "configs"))
        if name.split("/")[0] in ("study", "trainer"):
            continue
        sys.argv = ["rrr", "fit", "--config", name, "--print_config"]
        with redirect_stdout(StringIO()) as printed, contextlib.suppress(SystemExit):
            main()
        found[name] = printed.getvalue()
        if not found[name]:
            raise RuntimeError(f"{name} printed nothing")
    return found


def study_figures() -> dict[str, str]:
    """Returns the digests of the committed study's report, made again from its records."""
    shutil.copytree(ROOT / "docs" / "results" / "cifar10-study" / "cifar10", "study")
    rrr("study", "report", "study/cifar10.yaml", "--data", "cifar10", "--out", "study")
    names = ("report.json", "report.md")
    return {name: hashlib.sha256(Path("study", name).read_bytes()).hexdigest() for name in names}


def glue_figures() -> dict[str, Any]:
    """Returns the scores of a short fine-tuning on CoLA and RTE."""
    protocol = ("--tasks", "cola,rte", "--protocol", "single", "--seeds", "1")
    source = ("--checkpoint", "bert-table/checkpoints/last.ckpt", "--data", str(DATA / "glue"))
    rrr("glue", *source, *protocol, "--devices", "cpu:1", "--out", "glue")
    tasks = json.loads(Path("glue/glue.json").read_text())["tasks"]
    return {name: tasks[name]["metrics"] for name in sorted(tasks)}


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "images": image_figures,
    "text": text_figures,
    "configs": config_figures,
    "study": study_figures,
    "glue": glue_figures,
}


def main() -> None:
    """Makes the figures and writes or compares them."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", help="the file to write")
    parser.add_argument("--compare", help="the file to compare with")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    args = parser.parse_args()
    paths = {
        name: Path(value).resolve()
        for name, value in vars(args).items()
        if name != "parts" and value
    }
    os.environ.update(HF_HUB_OFFLINE="1")
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        found = {part: PARTS[part]() for part in args.parts}
        os.chdir(ROOT)
    if "out" in paths:
        paths["out"].write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    if "compare" not in paths:
        return
    stored = json.loads(paths["compare"].read_text())
    different = [
        f"{part}: {name}"
        for part in found
        for name in sorted({*found[part], *stored[part]})
        if found[part].get(name) != stored[part].get(name)
    ]
    print("\n".join(different) or f"equal: {', '.join(found)}")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
