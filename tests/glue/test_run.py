"""From a checkpoint to a report, again and again; one real run is killed and goes on."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.glue import run as module
from rrr_lightning.glue.run import evaluate
from rrr_lightning.jobs import hold
from rrr_lightning.jobs.process import MARKER
from tests.data.glue_files import write_diagnostic
from tests.glue.made import run_folder
from tests.glue.tiny import SETTINGS_OF_TESTS, run_here, write_body

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run_jobs", run_here)


def run(body: str, data: str, out: Path, tasks: str = "rte,cola", **more: Any) -> tuple[Any, str]:
    stream = io.StringIO()
    given: dict[str, Any] = {"settings": SETTINGS_OF_TESTS, "devices": "cpu:1", "stream": stream}
    results, _ = evaluate(body, data, out, tasks=tasks, **{**given, **more})
    return results, stream.getvalue()


@pytest.mark.usefixtures("here")
def test_a_report_and_nothing_to_do_the_second_time(body: str, data: str, tmp_path: Path) -> None:
    results, text = run(body, data, tmp_path, protocol="quick")
    assert "2 jobs run" in text
    assert [result.task for result in results.tasks] == ["cola", "rte"]
    content = json.loads((tmp_path / "glue.json").read_text())
    assert content["subset"]
    for name in ("glue.json", "glue.csv", "glue.md", "glue.png"):
        assert f"{tmp_path / name}\n" in text
        assert (tmp_path / name).exists()
    again, text = run(body, data, tmp_path, protocol="quick")
    assert "0 jobs run" in text
    assert json.loads((tmp_path / "glue.json").read_text()) == content
    assert again == results


@pytest.mark.usefixtures("here")
def test_the_output_may_lie_in_the_folder_of_the_checkpoint(data: str, tmp_path: Path) -> None:
    body = write_body(tmp_path / "body")
    run(str(body), data, body / "glue", "rte", protocol="quick")
    (body / "README.md").write_text("what it is worth on GLUE")
    _, text = run(str(body), data, body / "glue", "rte", protocol="quick")
    assert "0 jobs run" in text


@pytest.mark.usefixtures("here")
def test_published_starts_from_mnli_and_does_not_report_it(
    body: str, data: str, tmp_path: Path
) -> None:
    results, text = run(body, data, tmp_path)
    assert text.startswith("rte start from MNLI, which is fine-tuned first and not reported.\n")
    assert "3 jobs run" in text
    assert [result.task for result in results.tasks] == ["cola", "rte"]
    # Asked for later, the finished run of MNLI is simply reported.
    results, text = run(body, data, tmp_path, "mnli")
    assert "0 jobs run" in text
    assert [result.task for result in results.tasks] == ["cola", "mnli", "rte"]
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["start"]["max_steps"] == 4


FEW = {"max_steps": 2, "batch_size": 8, "max_length": 32}


@pytest.mark.usefixtures("here")
def test_tasks_start_from_the_mnli_of_an_earlier_call(body: str, data: str, tmp_path: Path) -> None:
    few = {"every_task": FEW}
    run(body, data, tmp_path / "a", "mnli", settings=few, seeds=[1, 2])
    _, text = run(body, data, tmp_path / "a", "rte", settings=few, seeds=[2])
    assert text.startswith("rte start from the finished run of MNLI with seed 1.\n")
    assert "\n1 jobs run" in text
    told = json.loads((run_folder(tmp_path / "a", "rte-2") / "settings.json").read_text())
    assert told["checkpoint"] == str(run_folder(tmp_path / "a", "mnli-1") / "network.ckpt")
    # Under a protocol in which nothing starts from MNLI unless it is said.
    out, more = tmp_path / "b", {**few, "rte": {"start": "mnli", "seeds": [5]}}
    run(body, data, out, "mnli", protocol="quick", settings=few)
    _, text = run(body, data, out, "rte", protocol="quick", settings=more)
    assert "\n1 jobs run" in text
    # The network was removed by hand.
    (run_folder(out, "mnli-19") / "network.ckpt").unlink()
    more["rte"]["seeds"] = [6]
    with pytest.raises(
        InputError, match=r"--out: a finished run of MNLI has kept .*jobs/mnli-19-\w+'"
    ):
        run(body, data, out, "rte", protocol="quick", settings=more)
    shutil.rmtree(run_folder(out, "mnli-19"))
    with pytest.raises(InputError, match=r"--out: rte-5 started from a run of MNLI that is gone"):
        run(body, data, out, "rte", protocol="quick", settings=more)
    shutil.rmtree(run_folder(out, "rte-5"))
    _, text = run(body, data, out, "rte", protocol="quick", settings=more)
    assert "\n2 jobs run" in text


def test_what_is_to_come_is_said_before_it_comes(
    body: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "printed"
    seen = []

    def look(jobs: Any, folder: Path, places: object, stream: Any, held: Any) -> Any:
        seen.append(path.read_text())
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_jobs", look)
    with path.open("w") as stream, pytest.raises(KeyboardInterrupt):
        run(body, data, tmp_path / "out", stream=stream, devices="cpu:2")
    note, line = seen[0].splitlines()
    assert note == "rte start from MNLI, which is fine-tuned first and not reported."
    assert line == "3 jobs, 2 at a time"


@pytest.mark.usefixtures("here")
def test_results_do_not_depend_on_the_interruption(
    body: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = run(body, data, tmp_path / "whole")
    calls = []

    def stop_at_the_second(jobs: Any, folder: Path, places: object, stream: Any, held: Any) -> Any:
        if not calls:
            calls.append(run_here(jobs[:2], folder, places, stream, held))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_jobs", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(body, data, tmp_path / "part")
    monkeypatch.setattr(module, "run_jobs", run_here)
    part, text = run(body, data, tmp_path / "part")
    assert "1 jobs run" in text
    assert part.values == whole.values


@pytest.mark.usefixtures("here")
def test_a_folder_of_another_checkpoint_or_protocol_is_refused(
    body: str, data: str, tmp_path: Path
) -> None:
    run(body, data, tmp_path / "out", "rte", protocol="quick")
    before = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    other = str(write_body(tmp_path / "other", hidden_size=8))
    with pytest.raises(InputError, match=r"--out: .* results of another checkpoint"):
        run(other, data, tmp_path / "out", "cola", protocol="quick")
    with pytest.raises(InputError, match=r"--out: .* results of another protocol \(quick"):
        run(body, data, tmp_path / "out", "rte", protocol="single")
    with pytest.raises(InputError, match=r"--submission: the finished runs in .* have not pred"):
        run(body, data, tmp_path / "out", "rte", protocol="quick", submission=tmp_path / "x.zip")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == before


@pytest.mark.usefixtures("here")
def test_a_second_call_beside_the_first_changes_nothing(
    body: str, data: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(body, data, out, "rte", protocol="quick")
    kept = [out / "plan.json", *out.glob("jobs/*/settings.json")]
    before = [path.read_bytes() for path in kept]
    files = sorted(out.rglob("*"))
    with hold(out):
        for tasks in ("cola", "rte"):
            with pytest.raises(InputError, match=r"--out: process .* is running the jobs"):
                run(body, data, out, tasks, protocol="quick")
    assert [path.read_bytes() for path in kept] == before
    assert sorted(out.rglob("*")) == files
    run(body, data, out, "cola", protocol="quick")


@pytest.mark.usefixtures("here")
def test_a_folder_that_another_call_has_taken_meanwhile_is_refused(
    body: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, inspect = tmp_path / "out", module.inspect_inputs
    other = str(write_body(tmp_path / "other", hidden_size=8))

    def slowly(*given: Any) -> Any:
        monkeypatch.setattr(module, "inspect_inputs", inspect)
        run(other, data, out, "rte", protocol="quick")
        return inspect(*given)

    monkeypatch.setattr(module, "inspect_inputs", slowly)
    with pytest.raises(InputError, match=r"--out: .* results of another checkpoint"):
        run(body, data, out, "cola", protocol="quick")
    assert {path.name[:5] for path in (out / "jobs").iterdir()} == {"rte-3"}
    assert json.loads((out / "plan.json").read_text())["checkpoint"] == other


@pytest.mark.usefixtures("here")
def test_test_predictions_go_into_a_zip(body: str, data: str, tmp_path: Path) -> None:
    archive = tmp_path / "out.zip"
    _, text = run(body, data, tmp_path / "out", "mnli,stsb", protocol="quick", submission=archive)
    with zipfile.ZipFile(archive) as file:
        assert sorted(file.namelist()) == ["MNLI-m.tsv", "MNLI-mm.tsv", "STS-B.tsv"]
        assert len(file.read("STS-B.tsv").splitlines()) == 25
    short = "CoLA.tsv, MNLI-m.tsv with 9,796 rows, not 24, MNLI-mm.tsv with 9,847 rows, not 24"
    assert f"The server also wants AX.tsv, {short}, MRPC.tsv" in text
    # With the diagnostic set in the data, the network of MNLI predicts it too.
    whole = tmp_path / "data"
    shutil.copytree(data, whole)
    write_diagnostic(whole)
    run(body, str(whole), tmp_path / "two", "mnli", protocol="quick", submission=archive)
    with zipfile.ZipFile(archive) as file:
        assert sorted(file.namelist()) == ["AX.tsv", "MNLI-m.tsv", "MNLI-mm.tsv"]
        header, *rows = file.read("AX.tsv").decode().splitlines()
    assert header == "index\tprediction"
    assert len(rows) == 5
    assert {row.split("\t")[1] for row in rows} <= {"entailment", "neutral", "contradiction"}
    # Left out of a finished folder, nothing is left to do; nothing else may be asked of it.
    _, text = run(body, data, tmp_path / "out", "mnli,stsb", protocol="quick")
    assert "0 jobs run" in text
    with pytest.raises(InputError, match="--submission: is no zip file"):
        run(body, data, tmp_path / "out", submission=tmp_path / "out.tsv")


@pytest.mark.parametrize(
    ("out", "submission", "message"),
    [
        ("/proc/glue", "x.zip", r"--out: cannot be written to \(.+\); found '/proc/glue'"),
        ("out", "file/x.zip", r"--submission: cannot be written \(.+\); found '.*file/x\.zip'"),
        ("out", "/proc/none/x.zip", r"--submission: cannot be written \(.+\); found '/proc"),
        ("out", "folder.zip", r"--submission: is no zip file; found '.*folder\.zip'"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_job(
    out: str, submission: str, message: str, body: str, data: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.zip").mkdir()
    with pytest.raises(InputError, match=message):
        run(
            body, data, tmp_path / out, "rte",
            protocol="quick", submission=tmp_path / submission,
        )  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.zip"]


@pytest.mark.usefixtures("here")
def test_a_prerequisite_can_be_submitted_later(body: str, data: str, tmp_path: Path) -> None:
    archive = tmp_path / "out.zip"
    run(body, data, tmp_path / "out", "rte", submission=archive)
    with zipfile.ZipFile(archive) as file:
        assert file.namelist() == ["RTE.tsv"]
    _, text = run(body, data, tmp_path / "out", "mnli", submission=archive)
    assert "0 jobs run" in text
    with zipfile.ZipFile(archive) as file:
        assert sorted(file.namelist()) == ["MNLI-m.tsv", "MNLI-mm.tsv", "RTE.tsv"]


@pytest.mark.usefixtures("here")
def test_a_smaller_rate_after_divergence(body: str, data: str, tmp_path: Path) -> None:
    run(body, data, tmp_path / "out", "cola", protocol="quick")
    fast = {**SETTINGS_OF_TESTS, "rte": {"learning_rate": 1e20}}
    with pytest.raises(InputError, match=r"rte\.learning_rate: .*accepted: a smaller rate"):
        run(body, data, tmp_path / "out", "rte", protocol="quick", settings=fast)
    slow = {**SETTINGS_OF_TESTS, "rte": {"learning_rate": 1e-5}}
    results, _ = run(body, data, tmp_path / "out", "rte", protocol="quick", settings=slow)
    assert [each.settings["learning_rate"] for each in results.tasks] == [1e-4, 1e-5]


@pytest.mark.usefixtures("here")
def test_a_checkpoint_that_changes_meanwhile_is_not_mixed(
    body: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(body, tmp_path / "body")

    def change_after_the_first(jobs: Any, folder: Path, *more: Any) -> Any:
        run_here(jobs[:1], folder, *more)
        write_body(copy, initializer_range=0.5)
        return run_here(jobs, folder, *more)

    monkeypatch.setattr(module, "run_jobs", change_after_the_first)
    with pytest.raises(InputError, match=r"--checkpoint: .*/body has changed since the evaluation"):
        run(str(copy), data, tmp_path / "out", protocol="quick")
    assert len(list(tmp_path.glob("out/jobs/*/done.json"))) == 1


@pytest.mark.usefixtures("here")
def test_a_job_of_an_earlier_call_does_not_pass_for_one_of_this(
    body: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job on a cluster can outlive its runner, and end while a call with other settings runs."""
    out = tmp_path / "out"
    before, _ = run(body, data, tmp_path / "before", "rte", protocol="quick")
    done = run_folder(tmp_path / "before", "rte-3")

    def ended_meanwhile(jobs: Any, folder: Path, *more: Any) -> Any:
        shutil.copytree(done, folder / "jobs" / done.name)
        return run_here(jobs, folder, *more)

    monkeypatch.setattr(module, "run_jobs", ended_meanwhile)
    other = {**SETTINGS_OF_TESTS, "rte": {"learning_rate": 1e-5}}
    results, text = run(body, data, out, "rte", protocol="quick", settings=other)
    assert "1 jobs run" in text
    (rte,) = results.tasks
    assert rte.settings["learning_rate"] == 1e-5
    assert len(list(out.glob("jobs/rte-3-*/done.json"))) == 2
    assert before.tasks[0].settings["learning_rate"] == 1e-4


@pytest.mark.usefixtures("here")
def test_two_checkpoints_side_by_side(body: str, data: str, tmp_path: Path) -> None:
    settings = {"every_task": {**SETTINGS_OF_TESTS["every_task"], "seeds": [1, 2]}}
    other = str(write_body(tmp_path / "other", num_hidden_layers=1))
    first, second = tmp_path / "first", tmp_path / "second"
    run(other, data, first, protocol="quick", settings=settings)
    _, text = run(body, data, second, protocol="quick", settings=settings, compare_with=first)
    assert f"# {body} against {other}" in text
    content = json.loads((second / "comparison.json").read_text())
    assert set(content["tasks"]) == {"rte", "cola"}
    assert set(content["averages"]) == {"tasks here"}
    (tmp_path / "link").symlink_to(second)
    with pytest.raises(InputError, match=r"--compare: is --out itself; found '.*link'"):
        run(body, data, second, protocol="quick", compare_with=tmp_path / "link")
    with pytest.raises(InputError, match=r"--compare: has no plan.json"):
        run(body, data, second, protocol="quick", compare_with=tmp_path / "none")
    with pytest.raises(InputError, match=r"--compare: .* has other settings of rte"):
        run(body, data, tmp_path / "third", "rte", protocol="single", compare_with=first)
    seeds = {"every_task": {**SETTINGS_OF_TESTS["every_task"], "seeds": [5]}}
    with pytest.raises(InputError, match=r"--compare: has no seed in common"):
        run(
            body, data, tmp_path / "third", "rte",
            protocol="quick", settings=seeds, compare_with=first,
        )  # fmt: skip
    assert not (tmp_path / "third").exists()


def start(body: str, data: str, out: Path, folder: Path) -> subprocess.Popen[bytes]:
    settings = folder / "settings.yaml"
    settings.write_text(json.dumps(SETTINGS_OF_TESTS))
    command = (
        sys.executable, "-m", "rrr_lightning", "glue", "--checkpoint", body, "--data", data,
        "--tasks", "rte,mrpc", "--settings", settings, "--devices", "cpu:1", "--out", out,
    )  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "printed").open("w") as printed:
        return subprocess.Popen(command, env=environment, stdout=printed, stderr=printed)


@pytest.mark.slow
@pytest.mark.timeout(900)  # four commands and six fine-tunings
def test_a_killed_command_goes_on(body: str, data: str, tmp_path: Path) -> None:
    printed = tmp_path / "printed"
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert start(body, data, whole, tmp_path).wait() == 0, printed.read_text()
    assert "\n3 jobs run\n" in printed.read_text()
    command = start(body, data, part, tmp_path)
    while not [*part.glob("jobs/rte-3-*/log.txt"), *part.glob("jobs/mrpc-3-*/log.txt")]:
        assert command.poll() is None, printed.read_text()
        time.sleep(0.1)
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    assert (run_folder(part, "mnli-3") / MARKER).exists()
    assert start(body, data, part, tmp_path).wait() == 0, printed.read_text()
    assert "\n2 jobs run\n" in printed.read_text()
    assert (part / "glue.csv").read_text() == (whole / "glue.csv").read_text()
    begun = time.monotonic()
    assert start(body, data, part, tmp_path).wait() == 0
    assert "0 jobs run\n" in printed.read_text()
    assert time.monotonic() - begun < 60
