from __future__ import annotations

import importlib.util
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import models

from rrr_lightning.errors import InputError
from rrr_lightning.files import sha256_of
from rrr_lightning.models.pretrained import load_timm, load_torchvision

KEY = "distillation.teachers[0]"
PUBLISHED = "squeezenet1_1-b8a52dc0.pth"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download cache; nothing can be downloaded into it."""

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def save_squeezenet(path: Path, classes: int = 1000) -> models.SqueezeNet:
    torch.manual_seed(0)
    network = models.squeezenet1_1(num_classes=classes)
    torch.save(network.state_dict(), path)
    return network.eval()


def test_a_local_file_with_a_number_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    network = save_squeezenet(path, 10)
    loaded = load_torchvision("squeezenet1_1", {"checkpoint": str(path), "num_classes": "10"}, KEY)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded.network.eval()(images), network(images))
    assert (loaded.schema.columns, loaded.schema.labels) == (10, None)
    assert loaded.sha256 == sha256_of(path)
    with pytest.raises(InputError, match=r"of another shape \(classifier\.1\.bias"):
        load_torchvision("squeezenet1_1", {"checkpoint": str(path)}, KEY)


def test_published_weights_bring_labels_and_statistics(tmp_path: Path) -> None:
    path = tmp_path / "downloaded.pth"
    save_squeezenet(path)
    query = {"weights": "IMAGENET1K_V1", "checkpoint": str(path)}
    schema = load_torchvision("squeezenet1_1", query, KEY).schema
    assert schema.columns == 1000
    assert schema.labels is not None
    assert schema.labels[0] == "tench"
    assert schema.normalization is not None
    assert schema.normalization.mean == (0.485, 0.456, 0.406)
    with pytest.raises(InputError, match="found '10'; accepted: 1000"):
        load_torchvision("squeezenet1_1", {**query, "num_classes": "10"}, KEY)


def test_published_weights_are_read_from_the_cache(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = save_squeezenet(hub / PUBLISHED)
    with pytest.raises(InputError, match=f"cached weight file is damaged.*{PUBLISHED}"):
        load_torchvision("squeezenet1_1", {"weights": "DEFAULT"}, KEY)
    monkeypatch.setattr("rrr_lightning.models.pretrained.sha256_of", lambda path: "b8a52dc0" * 8)
    loaded = load_torchvision("squeezenet1_1", {"weights": "DEFAULT"}, KEY)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded.network.eval()(images), network(images))


def test_without_network_the_way_out_is_named(hub: Path) -> None:
    with pytest.raises(InputError, match=r"resnet101-cd907fc2\.pth cannot be downloaded") as caught:
        load_torchvision("resnet101", {"weights": "IMAGENET1K_V2"}, KEY)
    assert "checkpoint=FILE" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(hub.iterdir())


@pytest.mark.parametrize("name", ["googlenet", "densenet121"])
def test_networks_that_were_published_in_another_form(tmp_path: Path, name: str) -> None:
    network = models.get_model(name, weights=None, **_as_trained(name))
    state = {_old(key): tensor for key, tensor in network.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    query = {"weights": "IMAGENET1K_V1", "checkpoint": str(tmp_path / "a.pth")}
    loaded = load_torchvision(name, query, KEY).network.eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images), network.eval()(images))


def _as_trained(name: str) -> dict[str, Any]:
    return {"init_weights": False, "transform_input": True} if name == "googlenet" else {}


def _old(key: str) -> str:
    """torchvision's first densenets had keys such as `denselayer1.norm.1.weight`."""
    for layer in ("norm1", "norm2", "conv1", "conv2"):
        if "denselayer" in key:
            key = key.replace(f".{layer}.", f".{layer[:-1]}.{layer[-1]}.")
    return key


@pytest.mark.parametrize(
    ("name", "query", "message"),
    [
        ("resnet109", {"weights": "DEFAULT"}, "did you mean 'resnet101'"),
        ("resnet101", {"weights": "IMAGENET1K_V3"}, "did you mean 'IMAGENET1K_V2'.*DEFAULT"),
        ("cifar_resnet20", {"weights": "DEFAULT"}, "no published weights"),
        ("squeezenet1_1", {}, r"without weights is no teacher.*\?weights=NAME"),
        ("squeezenet1_1", {"num_classes": "many"}, "found 'many'; accepted: 2 or more"),
        ("squeezenet1_1", {"num_classes": "1"}, "found '1'; accepted: 2 or more"),
        ("squeezenet1_1", {"checkpoint": "/no/such.pth"}, r"no such weight file.*/no/such\.pth"),
    ],
)
def test_what_torchvision_cannot_give_is_refused(
    name: str, query: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_torchvision(name, query, KEY)
    assert str(caught.value).startswith(KEY)


def test_missing_timm_gives_a_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"timm is not installed.*rrr-lightning\[timm\]"):
        load_timm("resnet18", {}, KEY)


def test_timm_networks_from_a_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is an optional extra")
    network = timm.create_model("test_resnet", num_classes=7).eval()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "a.pth")
    query = {"checkpoint": str(tmp_path / "a.pth"), "num_classes": "7"}
    loaded = load_timm("test_resnet", query, KEY)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded.network.eval()(images), network(images))
    assert (loaded.schema.columns, loaded.schema.normalization) == (7, None)
    network = timm.create_model("test_resnet")
    torch.save(network.state_dict(), tmp_path / "a.pth")
    schema = load_timm("test_resnet.r160_in1k", {"checkpoint": str(tmp_path / "a.pth")}, KEY).schema
    assert schema.columns == 1000
    assert schema.normalization is not None
    assert len(schema.normalization.mean) == 3


@pytest.mark.parametrize(
    ("name", "query", "message"),
    [
        ("resnt18", {"weights": "a1_in1k"}, "did you mean 'resnet18'"),
        ("resnet18.a4_in1k", {}, "unknown weights of resnet18; did you mean 'a[123]_in1k'"),
        ("resnet18", {}, "without weights is no teacher"),
        ("test_resnet", {"weights": "r160_in1k"}, r"cannot be downloaded.*\?checkpoint=FILE"),
        ("resnet18.a1_in1k", {"num_classes": "10"}, "accepted: 1000"),
    ],
)
def test_what_timm_cannot_give_is_refused(name: str, query: dict[str, str], message: str) -> None:
    pytest.importorskip("timm", reason="timm is an optional extra")
    with pytest.raises(InputError, match=message):
        load_timm(name, query, KEY)
