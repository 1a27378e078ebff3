"""What `--devices` means on machines with and without GPUs or a cluster."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from rrr_lightning.errors import InputError
from rrr_lightning.jobs import find_places, places


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(places, "cores", lambda: 12)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("devices", "processes", "threads"),
    [("auto", 4, "3"), ("cpu", 4, "3"), ("cpu:1", 1, "12"), ("cpu:5", 5, "2"), ("cpu:99", 99, "1")],
)
def test_processes_share_the_cores(devices: str, processes: int, threads: str) -> None:
    found = find_places(devices)
    assert len(found.environments) == processes
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        assert found.environments[0][name] == threads
    assert found.environments[0]["CUDA_VISIBLE_DEVICES"] == ""
    assert found.cluster == "local"


def test_gpus_get_a_job_each(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch.cuda, "device_count", lambda: 3)

    def gpus(devices: str) -> list[str]:
        return [each["CUDA_VISIBLE_DEVICES"] for each in find_places(devices).environments]

    assert gpus("auto") == gpus("gpu") == ["0", "1", "2"]
    assert gpus("gpu:2,0") == ["2", "0"]
    assert find_places("gpu:0,1").environments[0]["OMP_NUM_THREADS"] == "6"
    # The numbers count the GPUs that this process sees; the children need the real names.
    machine.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert gpus("gpu:0,2") == ["4", "7"]
    with pytest.raises(InputError, match=r"accepted: gpu:0, gpu:1, gpu:2"):
        find_places("gpu:3")


def test_a_cluster_has_places_in_its_queue(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    found = find_places("slurm:16", {"slurm_partition": "long"})
    assert found.cluster == "slurm"
    assert found.environments == ({},) * 16
    assert found.parameters == {"timeout_min": 1440, "slurm_partition": "long"}


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ("tpu", "--devices: no such device; found 'tpu'; accepted: auto, cpu, cpu:4"),
        ("cpu:many", "not a number"),
        ("cpu:0", "not a number"),
        ("gpu", "found 'gpu'; accepted: no GPU here"),
        ("slurm", "srun is not installed"),
    ],
)
def test_what_is_not_there_is_refused(devices: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_places(devices)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"slurm_partitoin": "long"}, "--slurm: Unknown argument 'partitoin'"),
        ({"gpus": 1}, "--slurm: Parameter 'gpus' need"),
        ({"timeout_min": "soon"}, "--slurm: .*timeout_min"),
    ],
)
def test_parameters_that_the_cluster_does_not_have_are_refused_at_once(
    parameters: dict[str, object],
    message: str,
    machine: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    machine.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    machine.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        find_places("slurm", parameters)
    find_places("slurm", {"gpus_per_node": 1, "cpus_per_task": 4, "slurm_partition": "long"})
    assert not list(tmp_path.iterdir())


def test_parameters_of_a_cluster_need_one() -> None:
    with pytest.raises(InputError, match="only for --devices slurm"):
        find_places("cpu", {"slurm_partition": "long"})
