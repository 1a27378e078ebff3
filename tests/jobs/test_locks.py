"""A lock ends with the last process that holds it, and says who that is."""

from __future__ import annotations

import subprocess
from pathlib import Path

from rrr_lightning.jobs.locks import Lock, holder


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "folder" / ".lock"
    assert holder(path) is None
    first, second = Lock(path), Lock(path)
    assert first.take({"pid": 1})
    assert not second.take({"pid": 2})
    assert holder(path) == {"pid": 1}
    first.write({"pid": 1, "group": 7})
    assert holder(path) == {"pid": 1, "group": 7}
    first.release()
    first.release()
    assert holder(path) is None
    assert second.take({"pid": 2})
    second.release()


def test_a_child_that_inherits_the_lock_keeps_it(tmp_path: Path) -> None:
    lock = Lock(tmp_path / ".lock")
    assert lock.take({"pid": 1})
    child = subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno()])
    lock.release()
    assert holder(lock.path) == {"pid": 1}
    child.kill()
    child.wait()
    assert holder(lock.path) is None


def test_a_note_that_is_being_written_does_not_make_the_lock_free(tmp_path: Path) -> None:
    lock = Lock(tmp_path / ".lock")
    assert lock.take({})
    lock.path.write_text("")
    assert holder(lock.path) == {}
    lock.release()


def test_a_note_that_is_none_does_not_make_the_lock_free(tmp_path: Path) -> None:
    lock = Lock(tmp_path / ".lock")
    assert lock.take({})
    for note in (b"[1]", b"\xff", b"[" * 100_000, b"3"):
        lock.path.write_bytes(note)
        assert holder(lock.path) == {}
    lock.release()
