"""Reading classifiers: any `nn.Module` through `torch.export`, or a file that `torch.export.save` wrote."""

from __future__ import annotations

import copy
import operator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pertbound.environment import known_state
from pertbound.errors import ConversionError, InputError
from pertbound.frontends.agreement import require_agreement
from pertbound.frontends.aten import graph_of
from pertbound.frontends.conversion import GETITEM
from pertbound.frontends.program import Call, Program, Ref
from pertbound.frontends.pt2 import read_pt2
from pertbound.graph import Graph


@known_state()
def from_torch(model: nn.Module, example: Tensor) -> Graph:
    """The graph of a classifier that maps (batch, *shape) to (batch, classes).

    `example` is a batch of at least one input, of the dtype and on the device of the model; only its shape and dtype
    matter to the graph. The model is copied, put into evaluation mode and traced; a final softmax is dropped, as logits
    are what is certified. The graph is then run beside the model on the example and on random inputs, in batches of up
    to 33, and must agree. The model is run and traced in `environment.known_state`, whatever the caller's modes are
    (autocast, inference mode, flushing of denormals, default dtype).

    Raises `UnsupportedLayerError` naming the operator and its place when there is no bound for it,
    `ConversionError` when the model cannot be traced or the graph computes something else, and `InputError` for an
    example that the model cannot take.
    """
    _require_example(model, example)
    try:
        model = copy.deepcopy(model).eval().requires_grad_(False)
    except Exception as error:
        raise ConversionError(f"the model cannot be copied, which is the first step here: {error}") from error
    pair = torch.cat([example, example])[:2].contiguous()
    with torch.no_grad():
        try:
            output = model(pair)
        except Exception as error:
            raise InputError(
                f"the model cannot take an example of shape {tuple(pair.shape)} ({pair.dtype}): {error}"
            ) from error
        if not isinstance(output, Tensor):
            raise ConversionError(f"the model must return one tensor of logits, got {type(output).__name__}")
    program = _trace(model, pair)
    graph, finish = graph_of(program, example.dtype, model)
    require_agreement(graph, finish, model, example)
    return graph


@known_state()
def from_pt2(path: Path | str) -> Graph:
    """The graph of a classifier in a `.pt2` file, as `torch.export.save` writes it.

    Nothing in the file is executed or unpickled: see `pt2.py`. As the original program is not run either, witnesses
    are checked against the graph alone.

    Raises `ModelFileError` for files that are damaged or not safe to read, and the errors of `from_torch`.
    """
    program = read_pt2(Path(path))
    floats = {t.dtype for t in program.tensors.values() if t.is_floating_point()}
    _require_dtypes(floats)
    graph, _ = graph_of(program, next(iter(floats), torch.float32), None)
    return graph


class _OneInput(nn.Module):
    """A model as a function of exactly one argument, which a forward of `*inputs` is not to torch.export."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        """The model's output."""
        return self.model(x)


def _require_example(model: nn.Module, example: Tensor) -> None:
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"the model must be a torch.nn.Module, got {type(model).__name__}; from_pt2 reads files")
    if not isinstance(example, Tensor) or example.dim() < 2 or len(example) == 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        got = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"the example must be a tensor (batch, *shape) with at least one input, got {got}")
    _require_dtypes({p.dtype for p in model.parameters()} | {example.dtype})


def _require_dtypes(dtypes: set[torch.dtype]) -> None:
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        raise InputError(
            f"weights and inputs must all be float32, or all float64, got {sorted(map(str, dtypes))}; "
            "convert with model.float() and x.float()"
        )


def _trace(model: nn.Module, pair: Tensor) -> Program:
    try:
        exported = torch.export.export(_OneInput(model), (pair,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConversionError(
            f"torch.export could not trace the model: {first}. A common cause is control flow that depends on "
            "values; `torch.export.export(model, (example,))` shows the details"
        ) from error
    signature: Any = exported.graph_signature
    stored: dict[str, Tensor] = {}
    known: dict[str, Any] = {**exported.constants, **exported.state_dict}
    for names in (
        signature.inputs_to_parameters,
        signature.inputs_to_buffers,
        signature.inputs_to_lifted_tensor_constants,
    ):
        stored |= {value: known[name] for value, name in names.items()}
    inputs, outputs = signature.user_inputs, signature.user_outputs
    if len(inputs) != 1 or len(outputs) != 1 or signature.buffers_to_mutate:
        raise ConversionError(
            f"a classifier has one input and one output and changes nothing; this one has {len(inputs)} inputs, "
            f"{len(outputs)} outputs and changes {len(signature.buffers_to_mutate)} buffers"
        )
    calls = tuple(_call(node) for node in exported.graph.nodes if node.op == "call_function")
    tensors = {name: tensor.detach() for name, tensor in stored.items()}
    return Program(str(inputs[0]), tuple(pair.shape), tensors, calls, str(outputs[0]))


def _call(node: torch.fx.Node) -> Call:
    target: Any = node.target
    schema = getattr(target, "_schema", None)
    if target is operator.getitem:
        results, index = node.args
        return Call(node.name, GETITEM, {"self": _plain(results), "index": index}, _where(node))
    if schema is None:
        return Call(node.name, str(getattr(target, "__name__", target)), {}, _where(node))
    names = [argument.name for argument in schema.arguments]
    arguments = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return Call(node.name, str(target), {name: _plain(v) for name, v in arguments.items()}, _where(node))


def _plain(value: Any) -> Any:
    if isinstance(value, torch.fx.Node):
        return Ref(value.name)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _where(node: torch.fx.Node) -> str:
    """The innermost module that the node was traced in, such as 'features.3 (Conv2d)'."""
    stack: Any = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path, kind = list(stack.values())[-1]
    kind = str(kind if isinstance(kind, str) else kind.__name__).rsplit(".", 1)[-1]
    return f"{str(path).removeprefix('model').removeprefix('.') or 'the top level'} ({kind})"
