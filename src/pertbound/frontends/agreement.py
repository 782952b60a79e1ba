"""A graph run beside the model that it was made from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pertbound.errors import ConversionError
from pertbound.graph import Graph

Function = Callable[[Tensor], Tensor]


def require_agreement(graph: Graph, finish: Function, model: Function, pair: Tensor) -> None:
    """Run both on `pair`, two inputs, and on random ones of other batch sizes; `finish` makes the model's output of
    the graph's.

    Raises `ConversionError` where they differ by more than 1e-4 of the largest output, or in what is not finite.
    """
    generator = torch.Generator(device="cpu").manual_seed(0)
    noise = torch.randn(3, *pair.shape[1:], generator=generator, dtype=pair.dtype).to(pair.device)
    with torch.no_grad():
        for x in (pair, noise, 0.1 * noise.abs(), noise[:1]):
            try:
                expected = model(x)
            except RuntimeError as error:
                raise ConversionError(f"the model cannot run a batch of {len(x)}: {error}") from error
            got = finish(graph.run(x))
            finite = torch.isfinite(expected)
            allowed = 1e-4 * (1 + float(expected[finite].abs().amax()) if bool(finite.any()) else 1.0)
            error = float("inf")
            if got.shape == expected.shape and bool((torch.isfinite(got) == finite).all()):
                error = float((got - expected)[finite].abs().amax()) if bool(finite.any()) else 0.0
            if not error <= allowed:
                raise ConversionError(
                    f"the graph computes something else than the model: outputs of shape {tuple(got.shape)} and "
                    f"{tuple(expected.shape)} differ by {error:.3g} (allowed {allowed:.3g}). Is the model random in "
                    "evaluation mode, or does its result depend on the batch? Otherwise this is a bug; please report"
                )
