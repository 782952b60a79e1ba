"""Random changes of sound files: each is read, or refused by an error that names it."""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pertbound.data import DataSet, Images, load_cifar_binary, load_folder, load_idx, load_npy, load_npz
from pertbound.errors import PertboundError

RNG = np.random.default_rng(0)
X = RNG.random((5, 2, 3))
PIXELS = RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8)


def written(write: Callable[[Any], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def folder_of(path: Path) -> DataSet:
    return load_folder(path.parent, Images(resize=8, crop=8))


IDX = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (4, 6, 5)) + bytes(120)
FILES: dict[str, tuple[bytes, Callable[[Path], DataSet]]] = {
    "x.npy": (written(lambda stream: np.save(stream, X)), load_npy),
    "x.npz": (written(lambda stream: np.savez(stream, x=X, y=np.arange(5))), load_npz),
    "x-images-idx3-ubyte": (IDX, load_idx),
    "x-images-idx3-ubyte.gz": (gzip.compress(IDX), load_idx),
    "x.bin": (bytes(2 * 3073), load_cifar_binary),
    **{
        f"x.{ending}": (written(lambda stream, f=form: Image.fromarray(PIXELS).save(stream, f)), folder_of)
        for ending, form in {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "tif": "TIFF", "webp": "WEBP"}.items()
    },
}


def changed(content: bytes, chance: random.Random) -> bytes:
    """A few bytes flipped, put in or taken out, rather near the beginning, where headers are."""
    made = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 6))):
        place = chance.randrange(len(made) + 1 if chance.random() < 0.5 else min(len(made), 140) + 1)
        more = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 8)))
        kind = chance.randrange(4)
        made[place : place + (kind != 0) * len(more)] = b"" if kind == 1 else more
        if kind == 3:
            made = made[: max(place, 1)]
    return bytes(made)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_changed_files_are_read_or_refused_by_name(tmp_path: Path, name: str, count: int):
    content, load = FILES[name]
    (tmp_path / name).write_bytes(content)
    assert len(load(tmp_path / name).inputs[:]) > 0
    for seed in range(count):
        (tmp_path / name).write_bytes(changed(content, random.Random(seed)))
        said = name
        try:
            load(tmp_path / name).inputs[:]
        except PertboundError as error:
            said = str(error)
        assert name in said
