"""What hangs on the reading of Theorem A.5, whose proof is in an appendix that is not at hand.

`Published` bounds the first layer's derivatives by row sums (D_0 = 1). As valid is the largest entry of each row, as
abs(d(w.x) / dx_a) = abs(w_a): a smaller M, hence larger values of the paper's bound.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from torch import Tensor

import pertbound as pb


def mean_with_entrywise_first_layer(network: pb.Graph, x: Tensor) -> float:
    """The mean of `Published`, its M replaced by the one that starts from the first layer's largest entries."""

    def second_derivative(self: Any, block: Any) -> float:
        dense, activation = block.layers[0]
        steep, curved = self._derivative_bounds(activation)
        largest = dense.weight.abs().double().amax(1)
        first, second = steep * largest, curved * largest.square()
        for dense, activation in block.layers[1:]:
            steep, curved = self._derivative_bounds(activation)
            weight = dense.weight.abs().double()
            second = curved * (weight @ first).square() + steep * (weight @ second)
            first = steep * (weight @ first)
        return float(second.max())

    with patch.object(pb.Published, "_second_derivative", second_derivative):
        return float(pb.certify(network, x, pb.Published()).radius.mean())
