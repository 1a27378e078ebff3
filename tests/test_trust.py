"""Files are data: what attacks in them would run, fetch, print or block, in every command."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rrr_lightning import commands
from rrr_lightning.errors import InputError
from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.models.loading import load_checkpoint
from rrr_lightning.models.masked_lm import MaskedLanguageModel
from rrr_lightning.models.text_classifier import TextClassifier
from rrr_lightning.teachers import load_teacher
from tests.cli_runs import FIT, TINY

MARK = "PWNED"
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 50,
}
Refused = Callable[..., str]


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder from which modules can be imported, in which nothing may appear."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_mod.py").write_text(
        f"import torch\nopen({str(tmp_path / MARK)!r}, 'w')\nclass Net(torch.nn.Module): pass\n"
    )
    yield tmp_path
    assert not (tmp_path / MARK).exists()
    assert not {"evil_mod", "this"} & set(sys.modules)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs any command of `rrr`, which has to end with one line and exit code 2."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["rrr", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            commands.main()
        lines = capsys.readouterr().err.splitlines()
        assert (end.value.code, len(lines)) == (2, 1), (arguments, lines)
        return lines[0]

    return run


def some_slow(names: Iterable[str], *fast: str) -> list[Any]:
    """Parameters of which only some belong to the fast suite."""
    return [n if n in fast else pytest.param(n, marks=pytest.mark.slow) for n in names]


def attacks(folder: Path) -> dict[str, Any]:
    """Descriptions of a network that would run code, import a module or fetch something."""
    marker = str(folder / MARK)
    touch = {"class_path": "os.system", "init_args": {"command": f"touch {marker}"}}
    clip = "torchmetrics.multimodal.clip_score.CLIPScore"
    return {
        "function": touch,
        "process": {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", marker]}},
        "nested": {"class_path": "torch.nn.Sequential", "init_args": {"layers": [touch]}},
        "nested deeper": {"class_path": "torch.nn.Sequential", "init_args": {"args": {"a": touch}}},
        "import": {"class_path": "this.X"},
        "own module": {"class_path": "evil_mod.Net"},
        "loader": {"class_path": clip, "init_args": {"model_name_or_path": "jinaai/jina-clip-v2"}},
        "our loader": {
            "class_path": "rrr_lightning.models.text_classifier.TextClassifier",
            "init_args": {"body": "some/repository"},
        },
        "reached through": {"class_path": "torch.nn.modules.module.torch.nn.Linear"},
        "compiled": "cifar_resnet8",
    }


def write(path: Path, module: Any, **arguments: Any) -> Path:
    """A checkpoint of a module whose description has other arguments."""
    described = module.describe()
    described["arguments"] = {**described["arguments"], **arguments}
    torch.save({"state_dict": module.state_dict(), "rrr_lightning": described}, path)
    return path


@pytest.fixture(scope="module")
def image() -> ImageClassifier:
    return ImageClassifier("cifar_resnet8", 10, seed=0)


# ---------------------------------------------------------------------- A2, A3: inside a checkpoint


@pytest.mark.parametrize("name", some_slow(attacks(Path()), "function", "import", "our loader"))
def test_a_checkpoint_imports_and_runs_nothing(
    in_folder: Path, image: ImageClassifier, command: Refused, name: str
) -> None:
    more = {"compile_network": True} if name == "compiled" else {}
    network = attacks(in_folder)[name]
    path = str(write(in_folder / "a.ckpt", image, network=network, **more))
    command("fit", *FIT[1:], f"--distillation.teachers={path}")
    command("export", "--checkpoint", path, "--to", "exported")
    folder = in_folder / "folder"
    folder.mkdir()
    described = torch.load(path, weights_only=True)["rrr_lightning"]
    (folder / "student.json").write_text(json.dumps(described))
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError):
        load_teacher(str(folder))
    assert sorted(each.name for each in in_folder.iterdir() if each.name != "__pycache__") == [
        "a.ckpt",
        "evil_mod.py",
        "folder",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        {"body": "some/repository"},
        {"body": "a.ckpt"},  # itself
        {"body": BERT | {"attn_implementation": "kernels-community/evil"}},
        {"body": BERT | {"use_pretrained_backbone": True}},
        {"body": BERT | {"text_config": {"attn_implementation": {"": "evil/kernel"}}}},
        {"pretrained": True},
        {"optimizer": "os.system"},
    ],
)
def test_a_text_checkpoint_opens_and_fetches_nothing(
    in_folder: Path, command: Refused, arguments: dict[str, Any]
) -> None:
    path = str(write(in_folder / "a.ckpt", TextClassifier(BERT, 2, seed=0), **arguments))
    line = command("export", "--checkpoint", path, "--to", "exported")
    assert "cannot be reached" not in line
    with pytest.raises(InputError):
        load_teacher(path)


# ---------------------------------------------------------------------- A6: small files, huge nets


@pytest.mark.parametrize(
    "arguments",
    [
        {"network": "cifar_resnet60002"},
        {"network": "resnet152"},
        {
            "network": {
                "class_path": "torch.nn.Linear",
                "init_args": {"in_features": 100_000, "out_features": 500_000},
            }
        },
        {
            "network": {
                "class_path": "torchvision.models.VisionTransformer",
                "init_args": {
                    "image_size": 1 << 14,
                    "patch_size": 1,
                    "num_layers": 1,
                    "num_heads": 1,
                    "hidden_dim": 1 << 16,
                    "mlp_dim": 1,
                },
            }
        },
        {"num_classes": 10**9},
    ],
)
def test_no_network_is_built_that_is_larger_than_its_file(
    tmp_path: Path, image: ImageClassifier, arguments: dict[str, Any]
) -> None:
    path = write(tmp_path / "a.ckpt", image, **arguments)
    with pytest.raises(InputError, match=r"more (numbers|parameters|layers)|at most 64"):
        load_checkpoint(path, "teacher")


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**6},
        {"num_hidden_layers": 10**12},
        {"vocab_size": 1 << 24, "hidden_size": 1 << 16},
        {"num_labels": 10**8},
        {"max_position_embeddings": 10**9},
    ],
)
def test_no_text_network_either(tmp_path: Path, change: dict[str, Any]) -> None:
    model = MaskedLanguageModel(BERT, seed=0)
    path = write(tmp_path / "a.ckpt", model, network=BERT | change)
    with pytest.raises(InputError, match=r"more (numbers|parameters|layers)|at most"):
        load_checkpoint(path, "teacher")
    folder = tmp_path / "folder"
    model.network.network.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=r"more (numbers|parameters|layers)|at most|do not fit"):
        load_teacher(f"hf:{folder}")


# ---------------------------------------------------------------------- A1, A4, A5: paths


@pytest.mark.parametrize(
    "option",
    [
        "--distillation.teachers",
        "--model.network",
        "--data.source",
        "--ckpt_path",
        "--distillation",
    ],
)
def test_a_path_is_never_read_as_a_configuration_nor_printed(
    in_folder: Path, command: Refused, option: str
) -> None:
    touch = attacks(in_folder)["function"]
    content = [{"model": touch, "checkpoint": "secret words"}]
    texts = {
        "teacher.ckpt": yaml.safe_dump(content),
        "teacher.safetensors": json.dumps(content),
        "lines.txt": "secret words\nmore of them\n",
        "broken.txt": "a: secret: 'words\n\t[",
        "mapping.yaml": yaml.safe_dump({"class_path": "evil_mod.Net", "teachers": content}),
    }
    arguments = [each for each in FIT if not each.startswith(f"{option}=")]
    if option == "--data.source":
        arguments = [each if each[:6] != "--data" else "--data=ImageDataModule" for each in FIT]
    for name, text in texts.items():
        (in_folder / name).write_text(text)
        line = command(*arguments, f"{option}={name}")
        assert not re.search("secret|os.system", line)


def test_an_address_is_not_fetched(in_folder: Path, command: Refused) -> None:
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"[{model: {class_path: this.X}, checkpoint: x}]")

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/teachers.yaml"
        command(*FIT, f"--distillation.teachers={url}")
        command(*FIT, f"--distillation.teachers=[{url}]")
        command(*FIT, f"--distillation.targets={url}")
        command(*FIT, f"--config={url}")
        command("validate", *TINY, f"--ckpt_path={url}")
        command("export", "--checkpoint", url, "--to", "exported")
        command("targets", *FIT[1:], f"--distillation.teachers={url}", "--out=stored")
    finally:
        server.shutdown()
        server.server_close()
    assert asked == []


def reading(path: str, home: str = "home") -> list[tuple[str, ...]]:
    """Every command that reads a file of weights, with this one."""
    return [
        ("fit", *FIT[1:], f"--distillation.teachers={path}"),
        ("fit", *FIT[1:], f"--ckpt_path={path}"),
        ("validate", *TINY, f"--ckpt_path={path}"),
        ("test", *TINY, f"--ckpt_path={path}"),
        ("predict", *TINY, f"--ckpt_path={path}"),
        ("export", f"--checkpoint={path}", "--to=exported"),
        ("targets", *FIT[1:], f"--distillation.teachers={path}", "--out=stored"),
        ("glue", f"--checkpoint={path}", f"--data={home}", "--out=out"),
        ("study", "plan", path, "--out=out"),
    ]


FILES = (
    "list of teachers",
    "class path",
    "study",
    *(name for name in attacks(Path()) if name != "compiled"),
)


@pytest.mark.parametrize("name", some_slow(FILES, "list of teachers", "import"))
def test_every_command_takes_a_hostile_file_for_data(
    in_folder: Path, image: ImageClassifier, command: Refused, name: str
) -> None:
    touch = attacks(in_folder)["function"]
    texts: dict[str, Any] = {
        "list of teachers": [{"model": touch, "checkpoint": "secret"}],
        "class path": touch,
        "study": {"arms": {"a": {"model": touch}}, "secret": touch},
    }
    path = in_folder / "a.ckpt"
    if name in texts:
        path.write_text(yaml.safe_dump(texts[name]))
    else:
        write(path, image, network=attacks(in_folder)[name])
    (in_folder / "home").mkdir()
    for arguments in reading(str(path)):
        assert "secret" not in command(*arguments)
    assert not {"exported", "stored", "out"} & {each.name for each in in_folder.iterdir()}


# ---------------------------------------------------------------------- A7: the user's own config


@pytest.mark.parametrize("name", ["function", "process", "nested deeper"])
def test_a_configuration_calls_only_classes_of_networks(
    in_folder: Path, command: Refused, name: str
) -> None:
    network = json.dumps(attacks(in_folder)[name])
    command(*(each for each in FIT if "network" not in each), f"--model.network={network}")
    torch.save({"a": torch.zeros(1)}, in_folder / "a.pt")
    spec = json.dumps([{"model": attacks(in_folder)[name], "checkpoint": "a.pt"}])
    command(*FIT, f"--distillation.teachers={spec}")


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "builtins.exec"])
def test_a_configuration_names_no_way_to_run_commands(
    in_folder: Path, command: Refused, path: str
) -> None:
    torch.save({"a": torch.zeros(1)}, in_folder / "a.pt")
    line = command(*FIT, "--distillation.teachers=a.pt", f"--distillation.teacher_inputs={path}")
    assert "teacher_inputs" in line


# ---------------------------------------------------------------------- A8: odd files


def odd(path: Path, kind: str) -> None:
    """Writes a file that is none of what it is named."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(ODD[kind])


ODD = {
    "empty": b"",
    "NUL bytes": b"\0" * 100,
    "brackets": b"[" * 100_000,
    "UTF-16": "a: 1".encode("utf-16"),
    "text": b"secret words",
    "list": b"[1, 2]",
    "twice": b'{"base": 1, "base": 2, "version": 1, "version": 1}',
    "number": b'{"version": ' + b"9" * 5000 + b"}",
}
KINDS = ("pipe", "device", *ODD)


@pytest.mark.parametrize("kind", some_slow(KINDS, "pipe", "brackets", "text", "twice"))
def test_odd_files_end_in_one_line(in_folder: Path, command: Refused, kind: str) -> None:
    home = in_folder / "home"
    home.mkdir()
    for name in ("a.yaml", "a.ckpt", "home/targets.json", "home/study.json", "home/glue.json"):
        odd(in_folder / name, kind)
    odd(home / "student.json", kind)
    for arguments in (
        ("fit", "--config=a.yaml"),
        ("fit", *FIT[1:], "--distillation.teachers=a.ckpt"),
        ("fit", *FIT[1:], "--distillation.teachers=home"),
        ("fit", *FIT[1:], "--distillation.targets=home"),
        ("validate", *TINY, "--ckpt_path=a.ckpt"),
        ("test", *TINY, "--ckpt_path=a.ckpt"),
        ("predict", *TINY, "--ckpt_path=a.ckpt"),
        ("export", "--checkpoint=a.ckpt", "--to=exported"),
        ("targets", *FIT[1:], "--distillation.teachers=a.ckpt", "--out=stored"),
        ("study", "plan", "a.yaml", "--out=out"),
        ("study", "report", "study/quickstart.yaml", "--out=home"),
        ("glue", "--checkpoint=a.ckpt", "--data=home", "--out=out"),
    ):
        assert "secret" not in command(*arguments)
