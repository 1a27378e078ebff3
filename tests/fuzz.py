"""Fuzzes each reader of files: `python -m tests.fuzz --mutations 500 --write docs/security.md`.

Every mutation goes through the reader that the commands use, in a child of bounded memory and
time. It must end in the right result or in an `InputError`. Anything else is `neither`: another
exception, a crash, too much time or memory, or damage that checksums show and that went unnoticed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from tests.mutations import (
    Mutate,
    changed_arrays,
    changed_checkpoint,
    changed_json,
    changed_safetensors,
    changed_yaml,
    mutate,
    rezipped,
)

MEMORY = 8 << 30  # bytes of address space
SECONDS = 20
NEITHER = "neither"


@dataclass(frozen=True)
class Reader:
    """A reader: what it reads, how such files are mutated, and how it is called.

    Attributes:
        make: Writes a whole file or folder into an empty folder.
        read: Reads it; returns what tells right results from wrong ones.
        kinds: How files are changed, by pattern of their names.
        checked: Whether the bytes have checksums, so that damage must not go unnoticed.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    kinds: dict[str, tuple[Mutate, ...]]
    checked: bool = False


def quiet_child() -> None:
    """No output, bounded memory, and warnings that are no errors."""
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def outcome(name: str, reader: Reader, number: int, whole: Path, expected: Any) -> str:
    """Reads one mutation: `right`, `refused`, or what else happened."""
    from rrr_lightning.errors import InputError

    random = Random(f"{name} {number}")
    folder = whole.with_name("changed")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    is_damaged = mutate(random, folder, reader.kinds)
    try:
        found = reader.read(folder)
    except InputError as error:
        one_line = "\n" not in str(error)
        return "refused" if one_line else f"{NEITHER}: several lines {error}"
    except (Exception, SystemExit) as error:
        line = traceback.extract_tb(error.__traceback__)
        ours = [each for each in line if "rrr_lightning/" in each.filename]
        where = " < ".join(f"{Path(e.filename).name}:{e.lineno}" for e in reversed(ours[-3:]))
        return f"{NEITHER}: {type(error).__name__} {str(error)[:120]!r} at {where}"
    if is_damaged and reader.checked and found != expected:
        return f"{NEITHER}: wrong in silence"
    return "right"


def _child(name: str, reader: Reader, numbers: range, whole: Path, expected: Any, out: int) -> None:
    quiet_child()
    for number in numbers:
        signal.alarm(SECONDS)
        line = outcome(name, reader, number, whole, expected)
        signal.alarm(0)
        os.write(out, (json.dumps([number, line]) + "\n").encode())


def fuzz(name: str, count: int, folder: Path, first: int = 0) -> list[tuple[int, str]]:
    """Returns the outcome of each mutation; a child that dies is one outcome."""
    reader = readers()[name]
    whole = folder / "whole"
    whole.mkdir(parents=True)
    reader.make(whole)
    expected = reader.read(whole)
    found: list[tuple[int, str]] = []
    stop = first + count
    while (following := first + len(found)) < stop:
        source, out = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            code = 1
            try:
                os.close(source)
                _child(name, reader, range(following, stop), whole, expected, out)
                code = 0
            finally:
                os._exit(code)
        os.close(out)
        with os.fdopen(source) as lines:
            found += [tuple(json.loads(line)) for line in lines]
        _, status = os.waitpid(child, 0)
        if status:
            code = os.waitstatus_to_exitcode(status)
            found.append((first + len(found), f"{NEITHER}: the process ended with {code}"))
    return found


# ---------------------------------------------------------------------- the readers


BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 64,
    "max_position_embeddings": 32,
}
TEXTS = ["the cat sat on the mat", "a dog ran in the park", "birds sing at dawn", "it is late"] * 5


def _save(module: Any, path: Path) -> None:
    from tests.study.studies import ledger

    unknown = dict.fromkeys(("energy_joules", "peak_memory_bytes", "money"))
    cost = {**ledger(3.0), **unknown, "device_seconds": 6.0, "step": 4, "mixed_hardware": False}
    taught = {"names": ["a.ckpt"], "teachers": ["0" * 64]}
    content = {
        "epoch": 0,
        "global_step": 4,
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"CostLedger": cost, "DistillationCallback": taught},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}],
        "state_dict": module.state_dict(),
        "rrr_lightning": {**module.describe(), "ledger": cost},
    }
    torch.save(content, path)


def _tokenizer() -> str:
    from rrr_lightning.data.wordpiece import train_wordpiece

    return train_wordpiece(TEXTS, 64)


def make_image(folder: Path) -> None:
    from rrr_lightning.models.image_classifier import ImageClassifier

    _save(ImageClassifier("cifar_resnet8", 10, seed=0), folder / "last.ckpt")


def make_masked(folder: Path) -> None:
    from rrr_lightning.data.wordpiece import SPECIAL_TOKENS
    from rrr_lightning.models.masked_lm import MaskedLanguageModel
    from rrr_lightning.tokens import Vocabulary, rebuild_tokenizer

    text = _tokenizer()
    ids = json.loads(text)["model"]["vocab"]
    special = {name: ids[token] for name, token in SPECIAL_TOKENS.items()}
    known = Vocabulary.of(rebuild_tokenizer(text, special))
    module = MaskedLanguageModel({**BERT, "vocab_size": known.size}, seed=0)
    module.vocabulary = known
    _save(module, folder / "last.ckpt")


def make_exported(folder: Path) -> None:
    from rrr_lightning.export import export_checkpoint

    make_image(folder)
    export_checkpoint(folder / "last.ckpt", folder / "exported")
    (folder / "last.ckpt").unlink()


def _digest(state: dict[str, Any]) -> str:
    from rrr_lightning.distillation.teacher import Teacher

    network = torch.nn.Module()
    for number, tensor in enumerate(state.values()):
        network.register_buffer(f"b{number}", tensor)
    return Teacher(network, name="x").fingerprint()


def read_teacher(path: Path, sample: Any) -> str:
    """The weights of a teacher, which has to run."""
    from rrr_lightning.teachers import load_teacher

    teacher = load_teacher(str(path))
    teacher.place("cpu")
    teacher.logits(sample)
    return _digest(teacher.network.state_dict())


def read_image(folder: Path) -> str:
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    path = folder / "exported" if (folder / "exported").exists() else folder / "last.ckpt"
    return read_teacher(path, (images, torch.zeros(2, dtype=torch.long)))


def read_masked(folder: Path) -> str:
    from rrr_lightning.export import export_checkpoint
    from rrr_lightning.tokens import stored_tokenizer

    ids = torch.tensor([[2, 3, 4, 1]])
    labels = torch.tensor([[-100, 3, -100, -100]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    found = read_teacher(folder / "last.ckpt", batch)
    stored_tokenizer(folder / "last.ckpt")("the cat")
    target = folder.with_name("exported")
    shutil.rmtree(target, ignore_errors=True)
    export_checkpoint(folder / "last.ckpt", target)
    return found


def make_targets(folder: Path) -> None:
    from rrr_lightning.distillation.pool import TeacherPool
    from rrr_lightning.distillation.sparse_targets import Encoding
    from rrr_lightning.distillation.targets import (
        TargetPlan,
        shard_path,
        write_plan,
        write_shard,
    )

    encoding = Encoding("top_k", 10, 3, 2.0)
    teachers = ({"name": "a.ckpt", "sha256": "0" * 64, "precision": "32"},)
    run = {"seed_everything": 1, "views at 0": "abc"}
    plan = TargetPlan(encoding, range(0), (), 4, False, TeacherPool(), teachers, run)
    plan = plan.extended(range(0, 6, 2), 2)
    write_plan(folder, plan)
    generator = torch.Generator().manual_seed(0)
    for first, stop in plan.shards:
        rows = [torch.randn(4, 10, generator=generator) for _ in range(first, stop)]
        chance = torch.zeros(4, dtype=torch.float64)
        steps = [encoding.encode(each, chance) for each in rows]
        write_shard(shard_path(folder, first), steps, None)


def changed_manifest(random: Random, data: bytes) -> bytes:
    """A manifest with another content, whose digest is right."""
    from rrr_lightning.distillation.targets import DIGEST

    content = json.loads(changed_json(random, data))
    if isinstance(content, dict) and content.pop(DIGEST, None) is not None:
        text = json.dumps(content, sort_keys=True)
        content[DIGEST] = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps(content).encode()


def read_targets(folder: Path) -> list[Any]:
    from rrr_lightning.distillation.losses import KLDivergence
    from rrr_lightning.distillation.sparse_targets import loss_against
    from rrr_lightning.distillation.targets import TargetStore

    store = TargetStore(folder)
    loss = loss_against(KLDivergence(2.0), store.plan.encoding)
    found: list[Any] = [store.plan.identity()]
    for step in [step for step in (0, 2, 4) if step in store.plan.steps]:
        store.plan.pool.draw(step, len(store.plan.teachers))
        targets = store.read(step, range(4))
        student = torch.zeros(4, store.plan.encoding.columns)
        found += [float(loss(student, targets)), targets.top_N.tolist()]
    return found


def make_study(folder: Path) -> None:
    from rrr_lightning.study.config import make_study as study_of
    from rrr_lightning.study.plan import make_plan
    from rrr_lightning.study.results import write_record
    from rrr_lightning.study.run import claim_folder
    from tests.study.studies import CONTENT, record, write

    write(folder / "a.yaml")
    study = study_of(CONTENT)
    claim_folder(study, folder / "out")
    for number, run in enumerate(make_plan(study, folder / "out")):
        write_record(folder / "out", record(run, 0.5 / run.steps**0.4 + 0.001 * (number % 3)))


def read_study(folder: Path) -> str:
    from rrr_lightning.study.comparison import analyse
    from rrr_lightning.study.report import as_json, markdown
    from rrr_lightning.study.run import open_study

    opened = open_study(str(folder / "a.yaml"), folder / "out")
    analysis = analyse(opened.students, opened.study)
    return markdown(as_json(analysis, opened.name), analysis)


def make_study_file(folder: Path) -> None:
    from tests.study.studies import write

    write(folder / "a.yaml")


def read_study_file(folder: Path) -> int:
    from rrr_lightning.study.config import read_study
    from rrr_lightning.study.plan import make_plan

    return len(make_plan(read_study(str(folder / "a.yaml")), folder / "out"))


def make_glue(folder: Path) -> None:
    from tests.glue.made import evaluation

    evaluation(folder, ("rte", "stsb", "mrpc"), seeds=(1, 2))


def read_glue(folder: Path) -> str:
    from rrr_lightning.glue.compare import read_predictions
    from rrr_lightning.glue.plan import read_plan
    from rrr_lightning.glue.report import markdown

    plan = read_plan(folder, "--out")
    for run in plan.runs(folder):
        if run.finished:
            read_predictions(run.folder, run.task, run.seed)
    return markdown(plan.results(folder))


def make_tokenizer(folder: Path) -> None:
    from rrr_lightning.data.wordpiece import SPECIAL_TOKENS
    from rrr_lightning.tokens import rebuild_tokenizer

    text = _tokenizer()
    ids = json.loads(text)["model"]["vocab"]
    special = {name: ids[token] for name, token in SPECIAL_TOKENS.items()}
    rebuild_tokenizer(text, special).save_pretrained(folder)


def read_tokenizer(folder: Path) -> list[Any]:
    from rrr_lightning.tokens import Vocabulary, load_fast_tokenizer

    tokenizer = load_fast_tokenizer(str(folder))
    return [tokenizer("the cat sat")["input_ids"], Vocabulary.of(tokenizer).fingerprint]


def readers() -> dict[str, Reader]:
    """All readers, by what they read."""
    checkpoint = {"*.ckpt": (changed_checkpoint, changed_checkpoint, rezipped)}
    json_files = (changed_json, changed_json)
    record = {"out/records/*.json": json_files, "out/study.json": json_files}
    shards = {"targets.json": (changed_manifest,) * 3, "shards/*": (changed_safetensors,)}
    glue = {
        "plan.json": json_files,
        "jobs/*/done.json": json_files,
        "jobs/*/predictions.npz": (changed_arrays, rezipped),
    }
    exported = {
        "exported/*.safetensors": (changed_safetensors, changed_safetensors),
        "exported/student.json": json_files,
    }
    return {
        "checkpoint, images": Reader(make_image, read_image, checkpoint, checked=True),
        "checkpoint, masked LM": Reader(make_masked, read_masked, checkpoint, checked=True),
        "exported folder": Reader(make_exported, read_image, exported),
        "stored targets": Reader(make_targets, read_targets, shards),
        "study's records": Reader(make_study, read_study, record),
        "study file": Reader(
            make_study_file, read_study_file, {"a.yaml": (changed_yaml, changed_yaml)}
        ),
        "GLUE results": Reader(make_glue, read_glue, glue),
        "tokenizer": Reader(make_tokenizer, read_tokenizer, {"*.json": json_files}),
    }


def main() -> None:
    """Fuzzes, prints the table, and writes it between the marks of a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in readers():
        if arguments.only and arguments.only not in name:
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = fuzz(name, arguments.mutations, Path(folder), arguments.first)
        kinds = Counter(each.partition(":")[0] for _, each in found)
        counts = [len(found), *(kinds[kind] for kind in ("right", "refused", NEITHER))]
        rows.append(f"| {name} | {' | '.join(map(str, counts))} |")
        print(rows[-1], f"{time.monotonic() - start:.0f} s", flush=True)
        seen: dict[str, list[int]] = {}
        for number, each in found:
            if each.startswith(NEITHER):
                seen.setdefault(each, []).append(number)
        for each, numbers in sorted(seen.items(), key=lambda pair: -len(pair[1])):
            print(f"  {len(numbers)} x {each} ({numbers[0]})", file=sys.stderr, flush=True)
    if arguments.write:
        command = f"python -m tests.fuzz --mutations {arguments.mutations}"
        where = f"{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}"
        text = "\n".join(
            (
                f"`{command}`, {where}, PyTorch {torch.__version__}:",
                "",
                "| Reader | Tried | Right | Refused | Neither |",
                "|---|---|---|---|---|",
                *rows,
            )
        )
        page = arguments.write.read_text()
        marks = r"(<!-- fuzz -->\n).*(\n<!-- end of fuzz -->)"
        arguments.write.write_text(re.sub(marks, rf"\1{text}\2", page, flags=re.S))


if __name__ == "__main__":
    main()
