"""What an installation contains: public names, version, and shipped configurations."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

import rrr_lightning
from tests.cli_runs import FIT

ROOT = Path(__file__).resolve().parent.parent


def test_every_public_name_resolves_and_is_listed() -> None:
    for name in rrr_lightning.__all__:
        assert getattr(rrr_lightning, name) is not None
        assert name in dir(rrr_lightning)


def test_public_names_are_the_objects_of_their_modules() -> None:
    for name, home in rrr_lightning._HOME_OF.items():
        assert getattr(rrr_lightning, name) is getattr(importlib.import_module(home), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Distiller'"):
        rrr_lightning.Distiller  # noqa: B018


def test_versions_agree() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    assert f'\nversion = "{rrr_lightning.__version__}"\n' in project


def test_constraints_are_names_and_versions_alone() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        requirement = line.partition(";")[0].strip()
        assert line.startswith("#") or requirement.count("==") == 1, line
        assert "://" not in line, line
        assert " @ " not in line, line


def environment(folder: Path) -> Path:
    """An empty virtual environment that sees the packages of this one; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", query], check=True, capture_output=True, text=True)
    Path(site.stdout.strip(), "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    assert found, "uv is in the extra 'dev'"
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)  # starts several processes that import torch
@pytest.mark.parametrize("editable", [False, True], ids=["wheel", "editable"])
def test_an_installation_finds_the_shipped_configs(editable: bool, tmp_path: Path) -> None:
    source = tmp_path / "source"
    skipped = shutil.ignore_patterns(".*", "runs", "tests", "docs", "build", "*.egg-info")
    shutil.copytree(ROOT, source, symlinks=True, ignore=skipped)
    python = environment(tmp_path / "venv")
    install = [uv(), "pip", "install", "--quiet", "--offline", "--python", python]
    install += ["--no-deps", "--no-build-isolation", *(["-e"] if editable else []), source]
    subprocess.run(install, check=True)
    if not editable:
        shutil.rmtree(source)
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    code = (
        "import pathlib, rrr_lightning;"
        "folder = pathlib.Path(rrr_lightning.__file__).parent;"
        "print(rrr_lightning.InputError('x'), (folder / 'configs/trainer/cpu.yaml').exists(),"
        "(folder / 'py.typed').exists(), folder)"
    )
    run = subprocess.run(
        [python, "-c", code], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert run.stdout.startswith("x True True " + str(tmp_path)), run.stdout + run.stderr

    empty = tmp_path / "empty"
    empty.mkdir()

    def printed(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=empty, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    both = ("--config=trainer/cpu.yaml", "--config=quickstart/baseline.yaml")
    config = yaml.safe_load(printed(python.with_name("rrr"), "fit", *both, "--print_config"))
    assert config["trainer"]["accelerator"] == "cpu"
    assert config["data"]["class_path"].endswith("EmbeddedDigits")
    if editable:  # one of the two will do: it is the same code under another name
        assert "fit" in printed(python, "-m", "rrr_lightning", "--help")
    assert not list(empty.iterdir())


WITHOUT_POSIX = """
import sys
sys.modules["fcntl"] = sys.modules["resource"] = None
import rrr_lightning
for name in rrr_lightning.__all__:
    getattr(rrr_lightning, name)
from rrr_lightning.cli import main
sys.argv = ["rrr", *sys.argv[1:]]
main()
"""


@pytest.mark.slow
def test_a_run_needs_no_module_of_posix_alone(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX, *FIT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert list(tmp_path.rglob("ledger.json"))
