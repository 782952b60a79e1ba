"""Model files: safetensors only, so that opening one never runs anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pertbound.disk import write_whole
from pertbound.errors import ModelFileError

_PICKLE_ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
_PICKLE_STARTS = (b"\x80", b"PK\x03\x04")
_COUNT = "num_batches_tracked"
_REMEDY = "convert it where you trust it, with safetensors.torch.save_file(model.state_dict(), path)"


def save_checkpoint(model: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the model's weights, with `metadata` beside them; the file appears whole or not at all.

    Raises `ModelFileError` when it cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda temporary: save_file(tensors, temporary, dict(metadata)))
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"cannot write the model file {path}: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises `ModelFileError` when the file is absent, damaged or a pickle, or a tensor is not finite float32. Batch
    normalisation's count of batches, which no prediction reads, is left out.
    """
    tensors = {name: tensor for name, tensor in _read(path)[0].items() if not name.endswith(_COUNT)}
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise ModelFileError(f"{name} in {path} is {tensor.dtype}, expected torch.float32; save it as float32")
        if not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(f"{name} in {path} holds NaN or infinity: the training that made it failed")
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """What `save_checkpoint` was given as metadata. Raises `ModelFileError` as `read_tensors` does."""
    return _read(path, whole=False)[1]


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give `model` the weights `tensors`, which came from `path`, and put it in evaluation mode.

    A model without weights yet, on the device "meta", gets its memory here. Raises `ModelFileError`, naming what
    differs, unless names and shapes are exactly the model's.
    """
    counts = {name: torch.tensor(0) for name in model.state_dict() if name.endswith(_COUNT)}
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in counts}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = [f"lacks {name}" for name in expected if name not in found]
    wrong += [f"has {name} besides" for name in found if name not in expected]
    wrong += [
        f"has {name} of shape {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    if wrong:
        shown = wrong if len(wrong) <= 8 else [*wrong[:8], f"and differs in {len(wrong) - 8} more tensors"]
        raise ModelFileError(f"{path} is not of this architecture: it {'; it '.join(shown)}")
    if any(weights.is_meta for weights in model.parameters()):
        model.to_empty(device="cpu")
    model.load_state_dict({**tensors, **counts})
    model.eval()


def _read(path: Path, *, whole: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as stored:
            names: list[str] = list(stored.keys()) if whole else []
            return {name: stored.get_tensor(name) for name in names}, dict(stored.metadata() or {})
    except (OSError, SafetensorError, ValueError) as error:
        if _looks_pickled(path):
            raise ModelFileError(
                f"{path} looks like a pickle, which can run anything when opened, so it was not; {_REMEDY}"
            ) from error
        raise ModelFileError(
            f"cannot read {path} as a safetensors file: {error}; it is absent, damaged or of another format"
        ) from error


def _looks_pickled(path: Path) -> bool:
    """Whether a file that is not safetensors is probably a pickle, by its ending or its first bytes.

    A sound safetensors file can begin with the same bytes, so this is asked only after reading has failed.
    """
    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            return path.suffix in _PICKLE_ENDINGS or stream.read(4).startswith(_PICKLE_STARTS)
    except OSError:  # reading has failed for another reason
        return False
