"""Data sets of the library `datasets`, made here and read offline."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pertbound.data import Images, from_huggingface, load
from pertbound.errors import DataError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The library, with its caches in a folder of ours, and never on the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        library = pytest.importorskip("datasets", reason="an optional extra: pertbound[datasets]")
        library.disable_progress_bars()
        yield library


@pytest.fixture
def pictures(datasets: Any) -> Any:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    images = [Image.fromarray(pixels) for pixels in PIXELS]
    return datasets.Dataset.from_dict({"image": images, "label": [2, 0, 1, 2]}, features=features)


def floats(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32)) / 255


def test_images_are_decoded_and_labels_are_classes(pictures: Any):
    data = from_huggingface(pictures)
    assert torch.equal(data.inputs[:], floats(PIXELS))
    assert torch.equal(data.inputs[torch.tensor([3, 0])], floats(PIXELS[[3, 0]]))
    assert data.labels is not None
    assert data.labels.tolist() == [2, 0, 1, 2]
    assert (data.pixel_scale, data.units) == (255.0, "pixel values from 0 to 1, where 1 is 255 grey levels")
    assert from_huggingface(pictures, Images(crop=(4, 2), channels=1)).inputs[:].shape == (4, 1, 4, 2)


def test_it_is_read_from_where_it_was_saved(pictures: Any, datasets: Any, tmp_path: Path):
    pictures.save_to_disk(tmp_path / "one")
    data = load(f"hf:{tmp_path / 'one'}", limit=3)
    assert data.sha256() == load(str(tmp_path / "one")).limit(3).sha256()
    assert torch.equal(data.inputs[1:], floats(PIXELS[1:3]))
    assert data.name == "one"
    both = datasets.DatasetDict({"train": pictures, "test": pictures.select([3])})
    both.save_to_disk(tmp_path / "both")
    sizes = [len(load(str(tmp_path / "both"), train=train)) for train in (True, False)]
    assert sizes == [4, 1]
    assert len(load(f"hf:{tmp_path / 'both'}:train")) == 4
    with pytest.raises(DataError, match=r"no split 'validation', only \['train', 'test'\]"):
        load(f"hf:{tmp_path / 'both'}:validation")


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_columns_of_numbers_are_read_from_files(datasets: Any, tmp_path: Path, kind: str):
    made = datasets.Dataset.from_dict({"a": [0.5, 1.5, 2.5], "label": [0, 2, 1], "b": [7, 8, 9]})
    getattr(made, f"to_{kind}")(str(tmp_path / f"table.{kind}"))
    data = load(f"hf:{tmp_path}/table.{kind}")
    assert data.inputs[:].tolist() == [[0.5, 7.0], [1.5, 8.0], [2.5, 9.0]]
    assert data.labels is not None
    assert data.labels.tolist() == [0, 2, 1]
    assert (data.name, data.units, data.pixel_scale) == ("table", "the values of a, b", 1.0)


def test_arrays_and_lists_keep_their_shape(datasets: Any):
    kinds = {"x": datasets.Array2D((2, 3), "uint8"), "y": datasets.Value("int8"), "t": datasets.Value("string")}
    features = datasets.Features(kinds)
    x = RNG.integers(0, 256, (3, 2, 3), dtype=np.uint8)
    data = from_huggingface(datasets.Dataset.from_dict({"x": x, "y": [1, 0, 1], "t": ["", "", ""]}, features=features))
    assert torch.equal(data.inputs[1:], torch.from_numpy(x[1:]).float())
    assert data.units == "pixel values from 0 to 255"
    assert data.labels is not None
    lists = datasets.Dataset.from_dict({"x": x.tolist(), "label": [-1, -1, -1]})
    assert torch.equal(from_huggingface(lists).inputs[:], torch.from_numpy(x).float())
    assert from_huggingface(lists).labels is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"t": ["a", "b"]}, "inputs need one of images or of arrays"),
        ({"a": [[1.0], [2.0]], "b": [[1.0], [2.0]]}, "inputs need one of"),
        ({"a": [[1.0], [2.0, 3.0]]}, "differ in length"),
        ({"a": [2**24 + 1, 0]}, "integers that are no float32"),
        ({"a": [1.0, None]}, "position 1"),
        ({"a": [1.0, 2.0], "label": [0, -3]}, "labels count from 0"),
        ({"a": [1.0, 2.0], "label": [0, None]}, "must hold integers"),
        ({"a": [], "label": []}, "is empty"),
    ],
)
def test_columns_that_are_not_clear_are_refused(datasets: Any, columns: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        from_huggingface(datasets.Dataset.from_dict(columns)).inputs[:]


def test_several_kinds_of_labels(pictures: Any, datasets: Any):
    more = pictures.add_column("coarse", [0, 0, 1, 1]).cast_column("coarse", datasets.ClassLabel(num_classes=2))
    data = from_huggingface(more)
    assert data.notes == ("labels are the column label of ['label', 'coarse']",)
    with pytest.raises(DataError, match=r"which of \['kind', 'coarse'\] are the labels"):
        from_huggingface(more.rename_column("label", "kind"))


def test_hostile_images_are_named(datasets: Any, tmp_path: Path):
    (tmp_path / "secret.txt").write_text("no image")
    features = datasets.Features({"image": datasets.Image(decode=False)})
    good = {"bytes": None, "path": str(tmp_path / "good.png")}
    Image.fromarray(PIXELS[0]).save(tmp_path / "good.png")
    Image.fromarray(PIXELS[0, :3]).save(tmp_path / "small.png")
    for bad, message in (
        ({"bytes": b"%!PS-Adobe-3.0 EPSF-3.0", "path": None}, "row 1: .*no image|cannot read .*row 1"),
        ({"bytes": None, "path": str(tmp_path / "secret.txt")}, "cannot read .*row 1"),
        ({"bytes": None, "path": str(tmp_path / "small.png")}, "row 1 gives 3 x 5 pixels, the first row 6 x 5"),
        (None, "row 1 holds no image"),
    ):
        data = from_huggingface(datasets.Dataset.from_dict({"image": [good, bad]}, features=features))
        assert torch.equal(data.inputs[:1], floats(PIXELS[:1]))
        with pytest.raises(DataError, match=message):
            data.inputs[:]


def test_what_is_not_there_is_refused(datasets: Any, tmp_path: Path):
    for name in ("hf:", "hf:a:b:c:d", f"hf:{tmp_path / 'nowhere'}", "hf:nobody/nothing:test[:10]"):
        with pytest.raises(DataError, match="hf:"):
            load(name)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot load hf:"):
        load(str(tmp_path))
    with pytest.raises(DataError, match="one split and not streamed, got dict"):
        from_huggingface({})


def test_names_reach_the_library_as_they_are_meant(datasets: Any, pictures: Any, monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []

    def answer(*arguments: Any, **options: Any) -> Any:
        asked.append((arguments, options))
        return pictures

    monkeypatch.setattr(datasets, "load_dataset", answer)
    for name in ("hf:a/b", "hf:a/b:test", "hf:a/b:plain:test[:10%]"):
        load(name)
    assert asked == [
        (("a/b", None), {"split": None}),
        (("a/b", None), {"split": "test"}),
        (("a/b", "plain"), {"split": "test[:10%]"}),
    ]


def test_without_the_library_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'pertbound\[datasets\]'"):
        load("hf:mnist")
