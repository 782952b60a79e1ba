"""Convolution and pooling from their definitions: numpy, one position and one tap at a time, any dtype.

Arrays are (batch, channels, *spatial). The output sizes are those of PyTorch's documentation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Ints = tuple[int, ...]


def convolve(
    x: Array, weight: Array, bias: Array | None, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> Array:
    """Cross-correlation with zero padding; weight is (out, in / groups, *window)."""
    padded = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    window = weight.shape[2:]
    sizes = tuple(
        (n - d * (q - 1) - 1) // s + 1 for n, q, s, d in zip(padded.shape[2:], window, stride, dilation, strict=True)
    )
    out, inside = weight.shape[0] // groups, weight.shape[1]
    result = np.zeros((len(x), weight.shape[0], *sizes), dtype=x.dtype)
    for place in np.ndindex(*sizes):
        for tap in np.ndindex(*window):
            at = tuple(o * s + t * d for o, s, t, d in zip(place, stride, tap, dilation, strict=True))
            entries = padded[(slice(None), slice(None), *at)]
            for g in range(groups):
                taps = weight[(slice(g * out, (g + 1) * out), slice(None), *tap)]
                part = entries[:, g * inside : (g + 1) * inside]
                result[(slice(None), slice(g * out, (g + 1) * out), *place)] += (part[:, None] * taps[None]).sum(2)
    if bias is not None:
        result += bias.reshape(1, -1, *(1 for _ in window))
    return result


def convolve_transposed(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    dilation: Ints,
    groups: int,
) -> Array:
    """Every input entry adds its multiple of the kernel to the output, at stride times its place; then the edges go."""
    window, spatial = weight.shape[2:], x.shape[2:]
    each = list(zip(spatial, window, stride, dilation, output_padding, strict=True))
    whole = [(n - 1) * s + d * (q - 1) + 1 + e for n, q, s, d, e in each]
    inside, out = weight.shape[0] // groups, weight.shape[1]
    result = np.zeros((len(x), out * groups, *whole), dtype=x.dtype)
    for place in np.ndindex(*spatial):
        for tap in np.ndindex(*window):
            at = tuple(o * s + t * d for o, s, t, d in zip(place, stride, tap, dilation, strict=True))
            for g in range(groups):
                entries = x[(slice(None), slice(g * inside, (g + 1) * inside), *place)]
                taps = weight[(slice(g * inside, (g + 1) * inside), slice(None), *tap)]
                result[(slice(None), slice(g * out, (g + 1) * out), *at)] += (entries[:, :, None] * taps[None]).sum(1)
    result = result[(slice(None), slice(None), *(slice(p, n - p) for n, p in zip(whole, padding, strict=True)))]
    if bias is not None:
        result = result + bias.reshape(1, -1, *(1 for _ in window))
    return result


def pooled_sizes(spatial: Ints, window: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil: bool) -> Ints:
    """The output's spatial size: with `ceil`, windows may hang over the end but must start inside."""
    sizes = []
    for n, q, s, p, d in zip(spatial, window, stride, padding, dilation, strict=True):
        room = n + 2 * p - d * (q - 1) - 1
        size = (-(-room // s) if ceil else room // s) + 1
        if ceil and (size - 1) * s >= n + p:
            size -= 1
        sizes.append(size)
    return tuple(sizes)


def windows(
    spatial: Ints, window: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil: bool
) -> Iterator[tuple[Ints, list[Ints]]]:
    """For each output position: the input positions that its window holds, without padding."""
    for place in np.ndindex(*pooled_sizes(spatial, window, stride, padding, dilation, ceil)):
        inside = []
        for tap in np.ndindex(*window):
            at = tuple(o * s - p + t * d for o, s, p, t, d in zip(place, stride, padding, tap, dilation, strict=True))
            if all(0 <= a < n for a, n in zip(at, spatial, strict=True)):
                inside.append(at)
        yield place, inside


def max_pool(x: Array, window: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil: bool) -> Array:
    """The largest entry of each window."""
    sizes = pooled_sizes(x.shape[2:], window, stride, padding, dilation, ceil)
    result = np.zeros((*x.shape[:2], *sizes), dtype=x.dtype)
    for place, inside in windows(x.shape[2:], window, stride, padding, dilation, ceil):
        entries = np.stack([x[(slice(None), slice(None), *at)] for at in inside])
        result[(slice(None), slice(None), *place)] = entries.max(0)
    return result


def average_pool(
    x: Array,
    window: Ints,
    stride: Ints,
    padding: Ints,
    ceil: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Array:
    """The sum of each window over its count: of entries, of entries and padding, or the divisor given."""
    spatial, ones = x.shape[2:], (1,) * len(window)
    sizes = pooled_sizes(spatial, window, stride, padding, ones, ceil)
    result = np.zeros((*x.shape[:2], *sizes), dtype=x.dtype)
    for place, inside in windows(spatial, window, stride, padding, ones, ceil):
        starts = [o * s - p for o, s, p in zip(place, stride, padding, strict=True)]
        with_padding = math.prod(
            min(start + q, n + p) - start for start, q, n, p in zip(starts, window, spatial, padding, strict=True)
        )
        count = with_padding if count_include_pad else len(inside)
        total = sum(x[(slice(None), slice(None), *at)] for at in inside)
        result[(slice(None), slice(None), *place)] = total / x.dtype.type(count if divisor is None else divisor)
    return result


def lp_pool(x: Array, p: float, window: Ints, stride: Ints) -> Array:
    """(sum over each window of abs(x)^p)^(1/p), scaled by the largest entry so that no power overflows."""
    spatial, zeros, ones = x.shape[2:], (0,) * len(window), (1,) * len(window)
    sizes = pooled_sizes(spatial, window, stride, zeros, ones, False)
    result = np.zeros((*x.shape[:2], *sizes), dtype=x.dtype)
    power = x.dtype.type(p)
    for place, inside in windows(spatial, window, stride, zeros, ones, False):
        entries = np.abs(np.stack([x[(slice(None), slice(None), *at)] for at in inside]))
        largest = entries.max(0)
        safe = np.where(largest > 0, largest, 1)
        sums = ((entries / safe) ** power).sum(0)
        result[(slice(None), slice(None), *place)] = largest * sums ** (1 / power)
    return result


def local_response(x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """x_i / (k + alpha / size * sum of x_j^2)^beta over the channels j from i - size // 2 to i + (size - 1) // 2."""
    number, result = x.dtype.type, np.zeros_like(x)
    for i in range(x.shape[1]):
        first, last = max(0, i - size // 2), min(x.shape[1], i + (size - 1) // 2 + 1)
        sums = (x[:, first:last] ** 2).sum(1)
        result[:, i] = x[:, i] / (number(k) + number(alpha) / number(size) * sums) ** number(beta)
    return result


def most_windows(spatial: Ints, window: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil: bool) -> int:
    """The largest number of windows that one input entry really lies in, by counting."""
    counts = np.zeros(spatial, dtype=int)
    for _, inside in windows(spatial, window, stride, padding, dilation, ceil):
        for at in inside:
            counts[at] += 1
    return int(counts.max())
