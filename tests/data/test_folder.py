"""Folders of images: the pixels and labels that are meant, and hostile files that are named."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pertbound.data import Images, load, load_folder
from pertbound.errors import DataError, InputError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 6, 4, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Three classes; images in the order of the names of classes and files are COLOUR[0], COLOUR[1], ..."""
    folder = tmp_path / "photos"
    names = ["ant/2.png", "ant/b.PNG", "bee/a.bmp", "wasp/0.png", "wasp/1.tif"]
    for name, pixels in zip(names, COLOUR, strict=True):
        save(folder / name, pixels)
    (folder / ".DS_Store").write_bytes(b"of another program")
    return folder


def floats(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32)) / 255


def test_each_folder_is_a_class_in_the_order_of_names(classes: Path):
    data = load(str(classes))
    assert data.inputs.shape == (5, 3, 6, 4)
    assert torch.equal(data.inputs[:], floats(COLOUR))
    assert torch.equal(data.inputs[torch.tensor([4, 1])], floats(COLOUR[[4, 1]]))
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1, 2, 2]
    assert (data.name, data.pixel_scale, data.notes) == ("photos", 255.0, ())
    assert data.units == "pixel values from 0 to 1, where 1 is 255 grey levels"


def test_classes_may_be_listed_in_the_models_order(classes: Path):
    (classes / "classes.txt").write_text("wasp\nfly\nant\nbee\n")
    data = load_folder(classes)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 2, 2, 3]
    assert torch.equal(data.inputs[:], floats(COLOUR[[3, 4, 0, 1, 2]]))
    for listing in ("wasp\nant\n", "wasp\nant\nbee\nant\n"):
        (classes / "classes.txt").write_text(listing)
        with pytest.raises(DataError, match="must name each folder once"):
            load_folder(classes)


def test_a_flat_folder_has_labels_where_they_are_listed(tmp_path: Path):
    for k in (2, 0, 1):
        save(tmp_path / f"{k}.png", COLOUR[k])
    data = load_folder(tmp_path)
    assert data.labels is None
    assert torch.equal(data.inputs[:], floats(COLOUR[:3]))
    for head in ("", "file,label\n"):
        (tmp_path / "labels.csv").write_text(f"{head}1.png,7\n0.png,5\n2.png,0\n")
        labels = load_folder(tmp_path).labels
        assert labels is not None
        assert labels.tolist() == [5, 7, 0]
    for text in (
        *("0.png,1\n1.png,1", "0.png,1\n" * 3, "0.png,1\n1.png,a\n2.png,0", "0.png,1\n1.png,-1\n2.png,0"),
        *("a,1,2", "0.png,1\n1.png,1\n2.png,1\n3.png,1", "0.png,99999999999999999999\n1.png,1\n2.png,2"),
    ):
        (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(DataError, match=r"labels\.csv must"):
            load_folder(tmp_path)


def test_grey_images_have_one_channel_unless_asked_otherwise(tmp_path: Path):
    save(tmp_path / "0.png", COLOUR[0, :, :, 0])
    data = load_folder(tmp_path)
    assert torch.equal(data.inputs[:], floats(COLOUR[:1, :, :, :1]))
    assert load_folder(tmp_path, Images(channels=3)).inputs.shape == (1, 3, 6, 4)
    save(tmp_path / "1.png", COLOUR[1])
    assert torch.equal(load_folder(tmp_path).inputs[1:], floats(COLOUR[1:2]))
    assert load_folder(tmp_path, Images(channels=1)).inputs.shape == (2, 1, 6, 4)


def test_a_resize_to_half_is_a_mean_and_the_crop_is_its_middle(tmp_path: Path):
    """Blocks of equal pixels: an antialiased filter keeps the inside of each block, so that the middle is known."""
    blocks = np.kron(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10, np.ones((16, 16), np.uint8))
    save(tmp_path / "0.png", blocks)
    half = load_folder(tmp_path, Images(resize=32))
    assert half.inputs.shape == (1, 1, 32, 48)
    assert torch.equal(half.inputs[:][0, 0, 4::8, 4::8] * 255, torch.from_numpy(blocks[8::16, 8::16]).float())
    cropped = load_folder(tmp_path, Images(resize=32, crop=16))
    assert torch.equal(cropped.inputs[:], half.inputs[:][..., 8:24, 16:32])
    assert load_folder(tmp_path, Images(resize=(10, 20), crop=(8, 12))).inputs.shape == (1, 1, 8, 12)
    assert cropped.notes == (
        "images are resized to 32 pixels (the shorter side), cropped to 16 x 16 before anything is measured",
    )
    assert len({d.sha256() for d in (half, cropped, load_folder(tmp_path), half)}) == 3


def test_the_first_image_of_another_size_is_named_unless_sizes_are_declared(tmp_path: Path):
    for k in range(4):
        save(tmp_path / f"{k}.png", np.zeros((8, 9 + (k >= 2), 3), np.uint8))
    with pytest.raises(DataError, match=r"2\.png gives 8 x 10 pixels, 0\.png before it 8 x 9; .* --crop 224"):
        load_folder(tmp_path)
    assert len(load_folder(tmp_path, limit=2)) == 2
    assert load_folder(tmp_path, Images(crop=8)).inputs[:].shape == (4, 3, 8, 8)
    with pytest.raises(DataError, match=r"0\.png: 8 x 9 pixels are too few to crop them to 10 x 10; resize"):
        load_folder(tmp_path, Images(crop=10))


def test_the_hash_depends_on_names_bytes_and_what_is_done(classes: Path):
    before = load_folder(classes).sha256()
    assert before == load_folder(classes).sha256()
    assert before != load_folder(classes, limit=3).sha256() == load_folder(classes).limit(3).sha256()
    assert before != load_folder(classes, Images(crop=3)).sha256()
    (classes / "bee" / "a.bmp").rename(classes / "bee" / "c.bmp")
    renamed = load_folder(classes).sha256()
    save(classes / "bee" / "c.bmp", COLOUR[2] ^ 1)
    assert len({before, renamed, load_folder(classes).sha256()}) == 3


# --- hostile files ---------------------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims so many pixels."""
    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def sixteen_bits() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((6, 4), np.uint16)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot read"),
        (b"not an image at all", "cannot read"),
        (b"\x89PNG\r\n\x1a\n", "cannot read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n", "no image in one of the formats"),
        (bomb(60_000, 60_000), "cannot read"),
        (bomb(9_000, 9_000), "at most 67108864 are decoded"),
        (bomb(2**31 - 1, 2**31 - 1), "cannot read"),
        (sixteen_bits(), "only 8 bits in each channel"),
    ],
    ids=range(8),
)
def test_files_that_are_no_images_are_named_before_anything_is_decoded(classes: Path, content: bytes, message: str):
    (classes / "bee" / "z.png").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_folder(classes)
    assert str(classes / "bee" / "z.png") in str(caught.value)


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "gif", "webp", "ppm"])
def test_a_truncated_image_is_named_when_it_is_read(tmp_path: Path, ending: str):
    paths = [save(tmp_path / f"{k}.{ending}", RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for k in range(3)]
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(DataError, match=rf"1\.{ending}"):
        load_folder(tmp_path).inputs[:]


def test_an_image_that_changes_meanwhile_is_named(classes: Path):
    data = load_folder(classes)
    save(classes / "bee" / "a.bmp", np.zeros((3, 3, 3), np.uint8))
    assert len(data.inputs[:2]) == 2
    with pytest.raises(DataError, match=r"a\.bmp has changed"):
        data.inputs[1:3]
    (classes / "bee" / "a.bmp").unlink()
    for ask in (lambda: data.inputs[2], data.sha256):
        with pytest.raises(DataError, match=r"a\.bmp"):
            ask()


def test_links_that_loop_end(classes: Path):
    (classes / "zoo").symlink_to(classes, target_is_directory=True)
    with pytest.raises(DataError, match="is a folder in the folder of a class"):
        load_folder(classes)
    (classes / "zoo").unlink()
    (classes / "bee" / "loop.png").symlink_to(classes / "bee" / "loop.png")
    with pytest.raises(DataError, match=r"loop\.png is no file that can be read"):
        load_folder(classes)
    (classes / "bee" / "loop.png").unlink()
    (classes.parent / "round").symlink_to(classes.parent / "round")
    with pytest.raises(DataError, match="no data set"):
        load(str(classes.parent / "round"))
    (classes / "bee" / "good.png").symlink_to(classes / "ant" / "2.png")
    assert len(load_folder(classes)) == 6


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "bee" / "notes.txt").write_text(""), r"notes\.txt is no image; move it out"),
        (lambda f: (f / "notes.md").write_text(""), r"notes\.md is no image; move it out"),
        (lambda f: (f / "bee" / "inner").mkdir(), "inner is a folder in the folder of a class"),
        (lambda f: save(f / "loose.png", COLOUR[0]), r"both folders \(ant, \.\.\.\) and images \(loose\.png"),
        (lambda f: os.mkfifo(f / "bee" / "pipe.png"), r"pipe\.png is no file that can be read"),
        (lambda f: (f / "bee" / "gone.png").symlink_to(f / "nowhere.png"), r"gone\.png is no file"),
    ],
)
def test_folders_that_are_not_clear_are_refused(classes: Path, damage: Callable[[Path], object], message: str):
    damage(classes)
    with pytest.raises(DataError, match=message):
        load_folder(classes)


def test_a_folder_without_images_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="no images in"):
        load_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in"):
        load_folder(tmp_path)
    with pytest.raises(DataError, match="cannot read the folder"):
        load_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "options",
    [{"resize": 0}, {"crop": -1}, {"crop": (3, 0)}, {"resize": 2.5}, {"resize": 10**6}, {"crop": (1, 2, 3)},
     {"channels": 2}, {"resize": True}],
)  # fmt: skip
def test_sizes_that_cannot_be_meant_are_refused(options: dict[str, Any]):
    with pytest.raises(InputError):
        Images(**options)


def test_an_image_too_long_to_be_resized_is_named(tmp_path: Path):
    save(tmp_path / "long.png", np.zeros((1, 5000), np.uint8))
    with pytest.raises(DataError, match=r"long\.png: 1 x 5000 pixels, resized to 5000, are more than"):
        load_folder(tmp_path, Images(resize=5000, crop=10))


def test_only_images_are_resized(classes: Path, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.zeros((3, 4)))
    for name in ("digits", str(tmp_path / "x.npy")):
        assert len(load(name, images=Images(channels=1), limit=2)) == 2
        with pytest.raises(DataError, match="no image files"):
            load(name, images=Images(crop=2))
    with pytest.raises(DataError, match="no training split"):
        load(str(classes), train=True)
