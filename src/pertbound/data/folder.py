"""A folder of images: one sub-folder for each class, or images alone."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from pertbound.data.dataset import DataSet, pixel_units
from pertbound.data.images import Images, decoded, header
from pertbound.data.inputs import Rows
from pertbound.errors import DataError, InputError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".pnm", ".tif", ".tiff", ".webp")
"""How files of images end, in capitals or not."""
CLASSES, LABELS = "classes.txt", "labels.csv"
"""Files of ours in such a folder; all others must be images. Names that begin with a dot are passed over."""
_NUMBER = re.compile(r"\s*[0-9]{1,9}\s*")
_MOST_TEXT = 2**26


def load_folder(folder: Path, images: Images | None = None, *, limit: int | None = None) -> DataSet:
    """The images in a folder, (N, channels, height, width) in [0, 1], decoded when a slice of them is asked for.

    With sub-folders, each is a class, in the order of their names, or in that of the lines of `classes.txt` (which may
    name more); images come class by class, each by name. Without, images come by name, and have labels where a
    `labels.csv` (lines `name,number`) gives them. What is done to each is `images`; after that, all must have one size.
    Of `limit` images, only the first so many are looked at.

    The header of every image is read first. Raises `DataError` that names the file that is damaged, no image, or of
    another size than the first; a file's pixels are read, and may fail, with its slice.
    """
    images = images or Images()
    files, labels = _listed(folder)
    files, labels = files[:limit], None if labels is None else labels[:limit]
    if not files:
        raise DataError(f"there are no images in {folder}; they end in {', '.join(ENDINGS)}")
    size, grey = _looked_at(files, images)
    images = replace(images, channels=images.channels or (1 if grey else 3))
    assert images.channels is not None
    try:
        return DataSet(
            name=folder.resolve().name,
            inputs=Files(tuple(files), folder, images, (len(files), images.channels, *size)),
            labels=labels,
            pixel_scale=255.0,
            positions=torch.arange(len(files)),
            notes=(f"images are {images} before anything is measured",) if str(images) else (),
            source=f"{folder} ({len(files)} images, decoded by Pillow {metadata.version('pillow')})",
            units=pixel_units(255),
        )
    except InputError as error:
        raise DataError(f"{folder}: {error}") from error


@final
@dataclass(frozen=True)
class Files:
    """Inputs that are image files, decoded when they are asked for."""

    files: tuple[Path, ...]
    folder: Path
    images: Images
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: Rows, /) -> Tensor:
        """The decoded images, (k, channels, height, width) float32 in [0, 1]."""
        chosen = range(len(self))[rows] if isinstance(rows, slice) else [int(row) for row in rows]
        found = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for place, row in enumerate(chosen):
            pixels = decoded(self.files[row], str(self.files[row]), self.images)
            if pixels.shape != self.shape[1:]:
                raise DataError(f"{self.files[row]} has changed: it gives {pixels.shape}, not {self.shape[1:]}")
            found[place] = pixels
        return torch.from_numpy(found).float().div_(255)

    def fingerprint(self, count: int) -> Iterator[bytes]:
        """What is done to the images, then the name and the SHA-256 of each of the first `count` files."""
        yield f"images {self.images!r} {(count, *self.shape[1:])}\n".encode()
        for file in self.files[:count]:
            try:
                digest = hashlib.sha256(file.read_bytes())
            except OSError as error:
                raise DataError(f"cannot read {file}: {error}") from error
            yield f"{file.relative_to(self.folder).as_posix()} {digest.hexdigest()}\n".encode()


def _looked_at(files: list[Path], images: Images) -> tuple[tuple[int, int], bool]:
    """The one size that all images have in the end, and whether all of them are grey."""
    first: tuple[int, int] | None = None
    grey = True
    for file in files:
        size, this_grey = header(file, str(file), images)
        grey, first = grey and this_grey, first or size
        if size != first:
            raise DataError(
                f"{file} gives {size[0]} x {size[1]} pixels, {files[0].name} before it {first[0]} x {first[1]}; all "
                "images must have one size: declare resize and crop, such as --resize 256 --crop 224"
            )
    assert first is not None
    return first, grey


def _listed(folder: Path) -> tuple[list[Path], Tensor | None]:
    """All image files in their order, with their labels where there are any."""
    folders, files = _entries(folder)
    if not folders:
        images = _images(files)
        return images, _numbered(folder / LABELS, images) if (folder / LABELS).exists() else None
    if loose := _images(files):
        raise DataError(
            f"{folder} holds both folders ({folders[0].name}, ...) and images ({loose[0].name}, ...): either each "
            "class has a folder, or there are no folders"
        )
    names = _classes(folder / CLASSES, folders) if (folder / CLASSES).exists() else [each.name for each in folders]
    images, labels = list[Path](), list[int]()
    places = {name: place for place, name in enumerate(names)}
    for each in sorted(folders, key=lambda path: places[path.name]):
        inner, files = _entries(each)
        if inner:
            raise DataError(f"{inner[0]} is a folder in the folder of a class, which must hold images only")
        found = _images(files)
        images += found
        labels += [places[each.name]] * len(found)
    return images, torch.tensor(labels, dtype=torch.int64)


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder, each sorted by name; links are followed, and lead one level down only."""
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        if odd := [path.name for path in entries if not path.name.isprintable()]:
            raise DataError(f"{folder} holds the name {odd[0]!r}, which is no printable text; rename it")
        return [path for path in entries if path.is_dir()], [path for path in entries if not path.is_dir()]
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error}") from error


def _images(files: list[Path]) -> list[Path]:
    files = [file for file in files if file.name not in (CLASSES, LABELS)]
    for file in files:
        if not file.name.lower().endswith(ENDINGS):
            raise DataError(f"{file} is no image; move it out of the folder, which may hold {', '.join(ENDINGS)} only")
        if not file.is_file():
            raise DataError(f"{file} is no file that can be read; is it a link that leads nowhere?")
    return files


def _classes(listing: Path, folders: list[Path]) -> list[str]:
    names = [line.strip() for line in _text(listing).splitlines() if line.strip()]
    known = set(names)
    unknown = [folder.name for folder in folders if folder.name not in known]
    if unknown or len(known) < len(names):
        raise DataError(
            f"{listing} must name each folder once, one on a line; it has {_few(names)}, without {_few(unknown)}"
        )
    return names


def _numbered(listing: Path, images: list[Path]) -> Tensor:
    """The labels of a flat folder: a number for each image."""
    try:
        lines = [line for line in csv.reader(_text(listing).splitlines()) if line]
    except csv.Error as error:
        raise DataError(f"{listing} must have lines of a file's name and its label: {error}") from error
    if lines and lines[0][1:] and not _NUMBER.fullmatch(lines[0][1]):
        lines = lines[1:]  # what the columns are called
    wrong = next((line for line in lines if len(line) != 2 or not _NUMBER.fullmatch(line[1])), None)
    if wrong is not None:
        raise DataError(
            f"{listing} must have lines of a file's name and its label, a number from 0 up; got {_few(wrong)}"
        )
    numbers = {name.strip(): int(number) for name, number in lines}
    names = {image.name for image in images}
    if len(numbers) < len(lines) or set(numbers) != names:
        odd = sorted(set(numbers) ^ names)[:3]
        raise DataError(
            f"{listing} must name each image of the folder once; see {_few(odd) if odd else 'names that come twice'}"
        )
    return torch.tensor([numbers[image.name] for image in images], dtype=torch.int64)


def _text(listing: Path) -> str:
    try:
        if not listing.is_file() or listing.stat().st_size > _MOST_TEXT:
            raise DataError(f"{listing} must be a file of at most {_MOST_TEXT} bytes; it is none, or larger")
        return listing.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {listing}: {error}") from error


def _few(words: Sequence[str]) -> str:
    """The first words of a list that a file may have made long, each cut."""
    shown = [word if len(word) <= 60 else f"{word[:57]}..." for word in words[:8]]
    return str(shown) + (f" and {len(words) - len(shown)} more" if len(words) > len(shown) else "")
