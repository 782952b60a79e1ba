"""Operators on stored tensors alone, computed while a program is read: parametrised weights, reshaped buffers.

Only operators of `_PURE` are computed: functions of their arguments without any other effect, none of which runs code
from a file. Results are bounded in size before they are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pertbound.errors import ConversionError

MOST = 2**26
"""Entries of a folded tensor."""
_IGNORED = ("device", "layout", "pin_memory", "memory_format", "requires_grad")
_PURE = {
    f"aten.{name}"
    for name in (
        # new tensors
        *("zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "eye", "arange", "linspace"),
        *("scalar_tensor", "lift_fresh_copy", "clone", "detach", "alias", "contiguous", "to", "_to_copy"),
        # shapes
        *("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze", "expand"),
        *("expand_as", "permute", "transpose", "t", "mT", "adjoint", "movedim", "slice", "select", "narrow", "chunk"),
        *("split", "split_with_sizes", "unbind", "index_select", "index", "flip", "roll", "repeat", "cat", "stack"),
        *("pad", "constant_pad_nd", "tril", "triu", "diagonal", "diag", "diag_embed", "broadcast_to"),
        # arithmetic
        *("add", "sub", "rsub", "mul", "div", "neg", "abs", "sign", "reciprocal", "sqrt", "rsqrt", "square", "pow"),
        *("exp", "log", "log1p", "expm1", "sin", "cos", "relu", "sigmoid", "tanh", "softplus", "softmax", "clamp"),
        *("clamp_min", "clamp_max", "maximum", "minimum", "where", "gt", "lt", "ge", "le", "eq", "ne", "logical_not"),
        # sums and products
        *("sum", "mean", "prod", "amax", "amin", "var", "std", "norm", "linalg_vector_norm", "linalg_matrix_norm"),
        *("mv", "mm", "bmm", "matmul", "dot", "vdot", "outer", "addmm", "addmv", "baddbmm", "einsum", "linear"),
        *("_weight_norm", "norm_except_dim", "linalg_householder_product", "linalg_matrix_exp", "matrix_exp"),
        *("linalg_inv", "linalg_solve", "linalg_solve_ex", "linalg_inv_ex", "linalg_cross", "cumsum", "kron"),
    )
}


def fold(target: str, operator: str, arguments: dict[str, Any]) -> Any:
    """The result of an operator on constants; None where it is not one of those that are computed here."""
    if operator not in _PURE:
        return None
    overload = overload_of(target)
    if overload is None:
        return None
    given = checked(target, overload, arguments)
    known = {a.name for a in overload._schema.arguments}
    try:
        with torch.no_grad():
            shapes = overload(**on_device(given, "meta"), **_device(known, "meta"))
            results = shapes if isinstance(shapes, list | tuple) else [shapes]
            if sum(v.numel() for v in results if isinstance(v, Tensor)) > MOST:
                raise ConversionError(f"{target} makes a constant of more than {MOST} entries")
            place = next((v.device for v in given.values() if isinstance(v, Tensor)), torch.device("cpu"))
            return overload(**given, **_device(known, place))
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError, OverflowError) as error:
        raise ConversionError(f"{target} on stored tensors: {str(error)[:200]}") from error


def overload_of(target: str) -> Any:
    """PyTorch's operator of that full name; None where there is none."""
    namespace, name, overload = (*target.split("."), "", "", "")[:3]
    packet: Any = getattr(torch.ops.aten, name, None) if namespace == "aten" and name.isidentifier() else None
    return getattr(packet, overload or "default", None) if packet is not None else None


def writes_into(target: str, arguments: Mapping[str, Any]) -> bool:
    """Whether the operator writes its result into another argument than the first."""
    overload = overload_of(target)
    own: list[Any] = [] if overload is None else overload._schema.arguments
    written = {a.name for a in own[1:] if a.alias_info is not None and a.alias_info.is_write}
    return "out" in arguments or not written.isdisjoint(arguments)


def checked(target: str, overload: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Those arguments that the operator has, of the types that it says: PyTorch crashes on some others."""
    types = {a.name: str(a.type) for a in overload._schema.arguments}
    given = {name: _plain(v) for name, v in arguments.items() if name in types and name not in _IGNORED}
    for name, value in given.items():
        kind = "dtype" if name == "dtype" else types[name]
        scalar = kind == "Tensor" and name == "other" and _fits("number", value)  # which PyTorch wraps
        if not scalar and not _fits(kind, value):
            raise ConversionError(f"{target} has unreadable arguments: {name} should be {kind}, got {str(value)[:100]}")
    return given


def _fits(kind: str, value: Any) -> bool:
    """Whether a value is of a type, as PyTorch's schemas write it."""
    if kind.startswith("Optional["):
        return value is None or _fits(kind[9:-1], value)
    if kind.startswith("List["):
        return isinstance(value, list) and all(_fits(kind[5:-1], item) for item in value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind in ("int", "SymInt"):
        return number and isinstance(value, int) and abs(value) < 2**63
    if kind in ("float", "number"):
        return number and (isinstance(value, float) or abs(value) < 2**63)
    types: dict[str, Any] = {"Tensor": Tensor, "bool": bool, "str": str}
    if kind == "dtype":
        return value is None or isinstance(value, torch.dtype)
    return kind in types and isinstance(value, types[kind])


def on_device(arguments: dict[str, Any], device: str) -> dict[str, Any]:
    """The arguments with their tensors on a device; on "meta" they have no numbers."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        return [moved(item) for item in value] if isinstance(value, list) else value

    return {name: moved(value) for name, value in arguments.items()}


def _device(known: set[str], device: Any) -> dict[str, Any]:
    """Where operators that make new tensors make them."""
    return {"device": torch.device(device)} if "device" in known else {}


def _plain(value: Any) -> Any:
    """Dtypes by their objects, where a file names them."""
    if isinstance(value, str) and value.startswith("torch."):
        found = getattr(torch, value[6:], None)
        return found if isinstance(found, torch.dtype) else value
    return value
