"""From flags to a preprocessing, to what is done to images, and to data that fit the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pertbound as pb
from pertbound.cli.inputs import read_images, read_preprocessing
from pertbound.data import DataSet, Images
from pertbound.errors import InputError
from pertbound.experiments.sources import read_data, read_network
from pertbound.preprocessing import Preprocessing


def test_numbers_stand_with_commas_between_them() -> None:
    assert read_preprocessing(None, None, None).nothing
    assert read_preprocessing("0.485, 0.456,0.406", "0.25", 255.0) == Preprocessing((0.485, 0.456, 0.406), 0.25, 255)
    assert read_preprocessing("-1e-2", None, None).mean == -0.01


@pytest.mark.parametrize("text", ["", "a", "0.5;0.5", "0.5,", "0.5 0.5", "nan", "inf", "0.5,nan"])
def test_what_is_no_list_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="mean"):
        read_preprocessing(text, None, None)


def test_sizes_are_a_number_or_two() -> None:
    assert read_images("256", "224") == Images(resize=256, crop=224)
    assert read_images("10x20", None) == Images(resize=(10, 20))
    assert read_images(None, None) == Images()


@pytest.mark.parametrize("text", ["", "x", "1x2x3", "-1", "1.5", "224 x", "0", "99999999999", "³"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="crop"):
        read_images(None, text)


def test_a_declared_preprocessing_is_part_of_the_network(files: Path, digits: DataSet) -> None:
    plain = read_network(files / "digits.safetensors", "digits")
    raw = read_network(files / "digits.pt2", None, Preprocessing(scale=16))
    x = digits.inputs[:4]
    with torch.no_grad():
        torch.testing.assert_close(raw(16 * x), plain(x), rtol=1e-4, atol=1e-4)
    radius = pb.certify(plain, x, pb.Lipschitz()).radius
    torch.testing.assert_close(pb.certify(raw, 16 * x, pb.Lipschitz()).radius, 16 * radius, rtol=1e-2, atol=0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for k in range(3):
        Image.fromarray(np.full((8, 8, 3), 9 * k, np.uint8)).save(tmp_path / f"{k}.png")
    return tmp_path


def test_images_get_the_channels_of_the_network(files: Path, photos: Path) -> None:
    network = read_network(files / "digits.safetensors", "digits")
    data = read_data(str(photos), None, 2, network)
    assert data.inputs.shape == (2, 1, 8, 8)
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(photos / "3.png")
    assert len(read_data(str(photos), None, None, network, read_images("8", "8"))) == 4
    with pytest.raises(InputError, match=r"samples of shape \(1, 4, 4\), but the model takes \(1, 8, 8\)"):
        read_data(str(photos), None, None, network, read_images("4", "4"))


def test_the_rest_of_the_data_is_as_before(files: Path, digits: DataSet) -> None:
    network: Any = read_network(files / "digits.safetensors", "digits")
    assert read_data("digits", None, 5, network).sha256() == digits.limit(5).sha256()
    assert read_data(str(files / "plain.npz"), None, None, network).labels is None
