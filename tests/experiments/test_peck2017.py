"""The paper's experiment: its settings, its network, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pertbound as pb
from pertbound.data import DataSet
from pertbound.experiments import peck2017
from pertbound.experiments.work import collect
from pertbound.models import Recipe, lenet, load_model, save_checkpoint

MNIST = peck2017.SETTINGS["mnist"]
CIFAR = peck2017.SETTINGS["cifar10"]


def noise(count: int, *, labels: bool = True) -> DataSet:
    generator = torch.Generator().manual_seed(0)
    return DataSet(
        name="noise",
        inputs=torch.rand(count, 1, 28, 28, generator=generator),
        labels=torch.randint(10, (count,), generator=generator) if labels else None,
        pixel_scale=255.0,
        positions=torch.arange(count),
        notes=(),
        source="here",
    )


def test_the_methods_are_the_papers_and_the_sound_one() -> None:
    names = [method.name for method in peck2017.methods()]
    assert names == ["fgs", "lipschitz", "published(softplus sharpness=10)", "published(curvature-free)"]
    attack = peck2017.methods()[0]
    assert isinstance(attack, pb.FastGradientSign)
    assert attack.max_epsilon == pytest.approx(100 / 255)


def test_a_checkpoint_is_read_and_left_where_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_checkpoint(lenet(1, 28), tmp_path / "net.safetensors", {})
    model, path = peck2017.network_for(MNIST, None, tmp_path / "out", tmp_path / "net.safetensors")
    assert path == tmp_path / "net.safetensors"
    assert not (tmp_path / "out").exists()
    assert not model.training


def test_an_earlier_runs_network_is_used_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    out = tmp_path / "out"
    save_checkpoint(lenet(1, 28), out / peck2017.CHECKPOINT, {})
    _, path = peck2017.network_for(MNIST, tmp_path / "no data here", out, None)
    assert path == out / peck2017.CHECKPOINT


@pytest.mark.parametrize(("setting", "channels", "size"), [(MNIST, 3, 32), (CIFAR, 1, 28), (MNIST, 1, 32)])
def test_a_network_for_other_images_is_refused(tmp_path: Path, setting: Any, channels: int, size: int) -> None:
    save_checkpoint(lenet(channels, size), tmp_path / "net.safetensors", {})
    with pytest.raises(pb.ModelFileError, match=setting.paper_name):
        peck2017.network_for(setting, None, tmp_path / "out", tmp_path / "net.safetensors")


def test_a_network_is_trained_and_kept_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peck2017, "load", lambda *arguments, **options: noise(40))
    quick = peck2017.Setting(
        dataset="mnist", paper_name="MNIST", recipe=Recipe(epochs=1, batch=20, peak_rate=0.01), accuracy=0.9
    )
    seen: list[int] = []
    model, path = peck2017.network_for(
        quick, None, tmp_path / "out", None, seed=3, on_epoch=lambda p: seen.append(p.epoch)
    )
    assert seen == [1]
    assert path == tmp_path / "out" / peck2017.CHECKPOINT
    kept, shape = load_model(path, "lenet")
    assert shape == (1, 28, 28)
    assert all(torch.equal(a, b) for a, b in zip(kept.state_dict().values(), model.state_dict().values(), strict=True))
    again, _ = peck2017.network_for(quick, None, tmp_path / "other", None, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))


def test_a_poor_network_is_refused_on_enough_samples() -> None:
    torch.manual_seed(0)
    model = lenet(1, 28).eval()
    with pytest.raises(pb.InputError, match="accuracy"):
        peck2017.check_accuracy(MNIST, model, noise(1000))
    assert 0 <= peck2017.check_accuracy(MNIST, model, noise(100)) < 0.5


class Small(nn.Sequential):
    """A network that is measured in no time."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 2, 5, stride=4), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 8), nn.ReLU(),
                         nn.Linear(8, 10))  # fmt: skip


@pytest.mark.parametrize("labels", [True, False])
def test_a_run_measures_everything_and_describes_itself(labels: bool) -> None:
    torch.manual_seed(0)
    work = peck2017.work_for(Small().eval(), noise(12, labels=labels), batch_size=5)
    run = collect(work, peck2017.about(MNIST, work, "pertbound x"))
    assert run.rows.num_rows == 4 * 12
    assert run.about["complete"] is True
    assert run.about["command"] == "pertbound x"
    assert "MNIST" in run.about["title"]
    assert (run.about["accuracy"] is None) == (not labels)
    assert set(run.about["seconds"]) == {method.name for method in peck2017.methods()} | {"operator norms"}
