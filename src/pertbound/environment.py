"""The modes and settings that floating-point results depend on, made known while something is computed.

A processor can read and write denormal numbers as 0 (`torch.set_flush_denormal`), autocast computes in bfloat16, the
default dtype may be float64. What is proved, and what is kept for later (norms, float64 copies of weights), must not
depend on any of these, nor on who asked first. So every public entry, and everything that is kept, runs in
`known_state`: denormals count, no autocast, no inference mode, float32 as the default dtype. Only searches in float32,
which prove nothing, flush denormals (`denormals_flushed`), because denormals can make them fifty times slower.

Denormals are a mode of each thread, and a thread keeps the mode of the thread that started it: PyTorch's worker threads
flush for as long as they live if they were started while flushing was on. Nothing can change that from outside, but it
can be seen; then `known_state` leaves the workers alone and computes in the calling thread.

Precision of float32 products (`torch.set_float32_matmul_precision` and newer settings) is left as it is: where it is
lower than usual, or the device is an accelerator, `plain_float32` says so and callers compute in float64.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

Owner = TypeVar("Owner")
Fact = TypeVar("Fact")

GRAIN = 2**15
"""Entries that PyTorch gives to a thread at least (`at::internal::GRAIN_SIZE`)."""
(_DENORMAL,), _ONE = struct.unpack("<d", b"\1" + bytes(7)), 1.0
"""The smallest float64 above 0, from its bits (flushing may read the digits as 0), and what shows whether it is 0."""


class _State(threading.local):
    """What this thread is in."""

    inside = False
    """Whether a `known_state` is open, which has looked at the workers."""


class _Shared:
    """What all threads share: how many have set the default dtype, and what it was before."""

    def __init__(self) -> None:
        self.lock, self.users, self.before = threading.Lock(), 0, torch.float32


_state, _shared = _State(), _Shared()


@contextmanager
def known_state() -> Generator[None]:
    """Denormals count, no autocast, no inference mode, float32 is the default dtype; also usable as a decorator.

    Gradients stay enabled or disabled, as they are. All is put back in the end. The default dtype is the only one of
    these settings that other threads share; it is changed only if it is not float32.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for kind in _device_kinds():
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if _shared.users or torch.get_default_dtype() != torch.float32:
            stack.enter_context(_float32_by_default())
        if flushes_denormals():
            stack.enter_context(_denormals(flushed=False))
        if not _state.inside and torch.get_num_threads() > 1:
            stack.enter_context(_sound_workers())
        yield


def kept(compute: Callable[[Owner], Fact]) -> cached_property[Fact]:
    """A property that is computed once, in `known_state` and without derivatives, and then kept: a `cached_property`
    whose value does not depend on who asks first.
    """

    @wraps(compute)
    def computed(owner: Owner) -> Fact:
        with known_state(), torch.no_grad():
            return compute(owner)

    return cached_property(computed)


@contextmanager
def denormals_flushed() -> Generator[None]:
    """The calling thread reads and writes denormals as 0. For searches in float32 only: nothing is proved here."""
    with _denormals(flushed=True):
        yield


def flushes_denormals() -> bool:
    """Whether the calling thread reads or writes denormals as 0."""
    return _DENORMAL * _ONE == 0.0


def plain_float32(x: Tensor) -> bool:
    """Whether x is float32 and will be computed as such: no accelerator's TF32, no reduced-precision products.

    PyTorch has an old setting for this and newer ones for each backend and operation; all of them must be untouched.
    Reading the old one fails once a newer one was set, which therefore counts as touched.
    """
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return False
    onednn: Any = torch.backends.mkldnn
    places = (torch.backends, onednn, *(getattr(onednn, name, None) for name in ("conv", "matmul")))
    if any(getattr(place, "fp32_precision", "none") not in ("none", "ieee") for place in places):
        return False
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:
        return False


@cache
def _device_kinds() -> tuple[str, ...]:
    accelerator = torch.accelerator.current_accelerator()
    return ("cpu",) if accelerator is None else ("cpu", accelerator.type)


@contextmanager
def _float32_by_default() -> Generator[None]:
    """The first of those that are open at a time sets it, the last puts back what it was."""
    with _shared.lock:
        if _shared.users == 0:
            _shared.before = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
        _shared.users += 1
    try:
        yield
    finally:
        with _shared.lock:
            _shared.users -= 1
            if _shared.users == 0:
                torch.set_default_dtype(_shared.before)


@contextmanager
def _denormals(*, flushed: bool) -> Generator[None]:
    """The calling thread's mode; workers keep theirs."""
    before = flushes_denormals()
    if before != flushed:
        torch.set_flush_denormal(flushed)
    try:
        yield
    finally:
        if before != flushed:
            torch.set_flush_denormal(before)


@contextmanager
def _sound_workers() -> Generator[None]:
    """One thread where some worker flushes denormals. Workers that do not exist yet are started here, and do not."""
    threads = torch.get_num_threads()
    alone = _workers_flush(threads)
    _state.inside = True
    try:
        if alone:
            torch.set_num_threads(1)
        yield
    finally:
        _state.inside = False
        if alone:
            torch.set_num_threads(threads)


def _workers_flush(threads: int) -> bool:
    """Whether a product that is shared among so many threads loses denormals."""
    with torch.no_grad():
        numbers = torch.ones(threads * GRAIN, dtype=torch.float64, device="cpu")
        # a few for each thread, by their bits: a denormal costs a hundred times what another number does
        numbers.view(torch.int64)[:: GRAIN // 4] = 1
        product = numbers * _ONE
        return not bool(product.view(torch.int64).all())
