from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rrr_lightning.data.preparation import build_once, cache_root, fingerprint, write_file
from rrr_lightning.errors import InputError


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may write everywhere: become nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_the_folder_is_given_or_told_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RRR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_root(None) == Path("/xdg/rrr_lightning")
    monkeypatch.setenv("RRR_CACHE", "~/kept")
    assert cache_root(None) == Path.home() / "kept"
    assert cache_root("/given") == Path("/given")


def test_fingerprints_tell_values_apart() -> None:
    values = [{"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]}, {}]
    assert len({fingerprint(value) for value in values}) == len(values)


def test_a_folder_has_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "made"

    def build(folder: Path) -> None:
        assert not target.exists()
        write_file(folder / "a", lambda path: path.write_text("1"))
        assert [path.name for path in folder.iterdir()] == ["a"]
        if not started:
            started.append(folder)
            (folder / "b.1.writing").write_text("half")
            raise RuntimeError("interrupted")

    started: list[Path] = []
    with pytest.raises(RuntimeError, match="interrupted"):
        build_once(target, build)
    assert not target.exists()
    assert (started[0] / "a").exists()
    build_once(target, build)
    assert [path.name for path in target.iterdir()] == ["a"]
    assert not started[0].exists()
    build_once(target, lambda folder: pytest.fail("built again"))


def test_of_two_at_once_one_builds_and_the_other_waits(tmp_path: Path) -> None:
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        time.sleep(0.2)
        write_file(folder / "a", lambda path: path.write_text("1"))

    threads = [
        threading.Thread(target=build_once, args=(tmp_path / "made", build)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert (tmp_path / "made" / "a").exists()


def test_a_folder_without_write_permission_is_named(tmp_path: Path) -> None:
    build_once(tmp_path / "before", lambda folder: None)
    tmp_path.chmod(0o555)
    try:
        line = rf"data.cache_dir: cannot be written \(Permission denied\); found '{tmp_path}'"
        with without_privileges(), pytest.raises(InputError, match=line):
            build_once(tmp_path / "made", lambda folder: None)
    finally:
        tmp_path.chmod(0o755)


def test_a_finished_folder_is_used_from_a_cache_without_write_permission(tmp_path: Path) -> None:
    build_once(tmp_path / "made", lambda folder: None)
    (tmp_path / "made.lock").unlink(missing_ok=True)
    tmp_path.chmod(0o555)
    build_once(tmp_path / "made", lambda folder: pytest.fail("built again"))
    tmp_path.chmod(0o755)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"data\.cache_dir: cannot be written"):
        build_once(tmp_path / "file" / "made", lambda folder: None)


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    code = f"""
import resource, sys
from pathlib import Path
from rrr_lightning.data.preparation import build_once, write_file
from rrr_lightning.errors import InputError
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
write = lambda path: path.write_bytes(bytes(100_000))
try:
    build_once(Path({str(tmp_path)!r}) / "made", lambda folder: write_file(folder / "a", write))
except InputError as error:
    sys.exit(f"line: {{error}}")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "line: data.cache_dir: cannot be written (" in run.stderr
    assert f"found '{tmp_path}'" in run.stderr
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "made.partial" / "a").exists()
