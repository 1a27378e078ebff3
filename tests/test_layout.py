"""The shape of the tree: imports point one way, files are short, tests mirror the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rrr_lightning"
TESTS = ROOT / "tests"

# What each part of the package may import from the others. `cli` sees all of them.
MAY_IMPORT = {
    "__init__": {"errors"},
    "errors": set(),
    "files": {"errors"},
    "keyed_rng": {"errors", "files"},
    "distillation": {"errors", "files", "keyed_rng"},
    "tokens": {"errors", "files", "distillation"},
    "models": {"errors", "files", "keyed_rng", "distillation", "tokens"},
    "teachers": {"errors", "files", "keyed_rng", "distillation", "tokens", "models"},
    "callbacks": {"errors", "files", "keyed_rng", "distillation", "models", "teachers"},
    "data": {"errors", "files", "keyed_rng", "tokens", "distillation"},
    "checkpointing": {"errors", "files", "distillation", "models"},
    "metrics_file": {"errors", "files"},
    "predictions": {"errors", "files"},
    "commands": {"errors", "__version__"},
    "_parsing": {"errors", "files", "commands", "distillation"},
    "jobs": {"errors", "files", "keyed_rng"},
    "glue": {
        "errors",
        "files",
        "tokens",
        "distillation",
        "models",
        "data",
        "jobs",
        "checkpointing",
        "metrics_file",
    },
    "study": {"errors", "files", "distillation", "jobs", "metrics_file"},
    "export": {"__version__", "errors", "files", "tokens", "distillation", "models", "data"},
}
SEE_ALL = {"cli", "commands", "__main__", "targets"}
# `distillation/` is the method alone: torch, and a reader of tensor files.
ALLOWED_IN_CORE = {"torch", "safetensors", "numpy"}
# The package's own lazy names are for users; inside, every import names its module.
NEVER_LOADED = ("transformers", "datasets", "torchvision", "lightning", "torch")


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "configs" not in path.parts)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Dotted names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    if part in SEE_ALL:
        return
    for name in imported(path):
        pieces = name.split(".")
        if pieces[0] == "rrr_lightning" and part != "__init__":
            assert pieces[1] in MAY_IMPORT[part] | {part}, f"{path} imports {name}"
        elif part == "distillation" and pieces[0] not in sys.stdlib_module_names:
            assert pieces[0] in ALLOWED_IN_CORE, f"{path} imports {name}"


def test_the_command_line_is_imported_by_other_commands_alone() -> None:
    extends_it = PACKAGE / "targets" / "command.py"
    for path in sources():
        if path.name != "__main__.py" and path != extends_it:
            assert not any(name.startswith("rrr_lightning.cli") for name in imported(path)), path


def test_files_are_short() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for folder, limit in ((PACKAGE, 450), (TESTS, 450), (ROOT / "scripts", 450))
        for path in folder.rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > limit
    }
    assert not long


def mirrors(test: Path) -> bool:
    """True for `tests/a/test_b.py` or `tests/a/test_b_aspect.py` where the package has `a/b.py`."""
    home = PACKAGE / test.relative_to(TESTS).parent
    stem = test.stem.removeprefix("test_")
    modules = {path.stem.strip("_") for path in home.glob("*.py")}
    return any(stem == module or stem.startswith(f"{module}_") for module in modules)


def test_tests_mirror_the_package() -> None:
    whole = ("constructors", "files_entered", "fuzz", "layout", "package", "trust")
    about_the_whole = {f"test_{name}.py" for name in whole}
    # About files or whole runs, not modules.
    outside = ("configs", "scripts", "docs", "reports", "resume")
    lost = [
        str(test.relative_to(TESTS))
        for test in TESTS.rglob("test_*.py")
        if test.relative_to(TESTS).parts[0] not in outside
        and test.name not in about_the_whole
        and not mirrors(test)
    ]
    assert not lost


def test_every_module_has_a_test() -> None:
    entry_points = {"__init__.py", "__main__.py"}
    untested = [
        str(path.relative_to(PACKAGE))
        for path in sources()
        if path.name not in entry_points
        and not path.name.startswith("_")
        and not list((TESTS / path.relative_to(PACKAGE).parent).glob(f"test_{path.stem}*.py"))
    ]
    assert not untested


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, rrr_lightning;"
        f"print([name for name in {NEVER_LOADED!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "[]", run.stderr
