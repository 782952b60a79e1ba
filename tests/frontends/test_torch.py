"""Modules become graphs that compute the same, or are refused with the operator and its place."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import pertbound as pb
from pertbound import layers
from pertbound.models import lenet

Function = Callable[..., Any]
Build = Callable[[], nn.Module]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*isinstance.treespec", "ignore:.*weight_norm", "ignore:.*'same' with even kernel", "ignore:Implicit dim"
)


class Wrap(nn.Module):
    """`function(self, x)` with the given modules and buffers."""

    def __init__(self, function: Function, **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Parameter | nn.Module):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def shaken(model: nn.Module) -> nn.Module:
    """The model with running statistics and affine weights that are far from the identity, in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low in ((module.running_mean, -1.0), (module.running_var, 0.2)):
                if tensor is not None:
                    tensor.uniform_(low, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.uniform_(module.bias, -1.0, 1.0)
    return model.eval()


def linear(inputs: int = 6, outputs: int = 3) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def image(*modules: nn.Module, features: int) -> nn.Sequential:
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(features, 3))


def differs(graph: pb.Graph, model: nn.Module, *, scale: float = 1.0, finish: Function | None = None) -> float:
    """The largest difference between graph and model at batch sizes 1, 2 and 7, relative to 1 + the largest output."""
    largest = 0.0
    dtype = graph.dtype
    for batch in (1, 2, 7):
        x = torch.randn(batch, *graph.input_shape, dtype=dtype) * scale
        with torch.no_grad():
            expected, got = model(x), graph(x)
        if finish is not None:
            got = finish(got)
        assert got.shape == expected.shape
        largest = max(largest, float((got - expected).abs().max() / (1 + expected.abs().max())))
    return largest


# --- what is accepted computes the same ------------------------------------------------------------------------

PLAIN: dict[str, tuple[Build, tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(linear(6, 8), nn.ReLU(), linear(8, 4)), (6,)),
    "no bias": (lambda: nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 2, bias=False)), (6,)),
    "linear over the last of several dimensions": (lambda: image(linear(6, 5), nn.ReLU(), features=20), (4, 6)),
    "lenet": (lambda: lenet(1, 28), (1, 28, 28)),
    "conv1d": (lambda: image(nn.Conv1d(2, 3, 3, stride=2, padding=1), features=15), (2, 10)),
    "conv2d": (lambda: image(nn.Conv2d(1, 3, (2, 3), stride=(1, 2), padding=(0, 2)), features=90), (1, 7, 8)),
    "conv3d": (lambda: image(nn.Conv3d(1, 2, 3, stride=2, bias=False), features=16), (1, 5, 6, 5)),
    "grouped": (lambda: image(nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(6, 6, 1, groups=6), features=54), (4, 5, 5)),
    "dilated": (lambda: image(nn.Conv2d(1, 2, 3, dilation=(2, 1)), features=20), (1, 6, 7)),
    "padding same": (lambda: image(nn.Conv2d(1, 2, (3, 5), padding="same", dilation=2), features=84), (1, 6, 7)),
    "padding same, even kernel": (lambda: image(nn.Conv1d(1, 2, 2, padding="same", dilation=2), features=14), (1, 7)),
    "padding valid": (lambda: image(nn.Conv1d(1, 2, 3, padding="valid", stride=2), features=6), (1, 7)),
    "channels last": (
        lambda: image(nn.Conv2d(2, 3, 3), features=48).to(memory_format=torch.channels_last),
        (2, 6, 6),
    ),
    "max_pool1d": (lambda: image(nn.MaxPool1d(3, stride=1, dilation=2, padding=1), features=10), (2, 7)),
    "max_pool2d": (lambda: image(nn.MaxPool2d(3, stride=2, padding=1), features=18), (2, 5, 6)),
    "max_pool2d, ceil": (lambda: image(nn.MaxPool2d((3, 2), ceil_mode=True), features=16), (2, 5, 7)),
    "max_pool3d": (lambda: image(nn.MaxPool3d(2), features=8), (1, 4, 5, 4)),
    "avg_pool1d": (lambda: image(nn.AvgPool1d(3, stride=1, padding=1, count_include_pad=False), features=14), (2, 7)),
    "avg_pool2d": (lambda: image(nn.AvgPool2d(3, stride=2, padding=1), features=18), (2, 5, 6)),
    "avg_pool2d, ceil": (lambda: image(nn.AvgPool2d(2, ceil_mode=True), features=24), (2, 5, 7)),
    "avg_pool2d, divisor": (lambda: image(nn.AvgPool2d(2, divisor_override=3), features=12), (2, 5, 6)),
    "avg_pool3d": (lambda: image(nn.AvgPool3d(2, ceil_mode=True), features=12), (1, 4, 5, 4)),
    "adaptive_avg_pool1d": (lambda: image(nn.AdaptiveAvgPool1d(3), features=6), (2, 9)),
    "adaptive_avg_pool2d": (lambda: image(nn.AdaptiveAvgPool2d((1, None)), features=12), (2, 4, 6)),
    "adaptive_avg_pool3d": (lambda: image(nn.AdaptiveAvgPool3d(2), features=8), (1, 4, 4, 2)),
    "lp_pool1d, p=2": (lambda: image(nn.LPPool1d(2, 3, stride=2), features=6), (2, 7)),
    "lp_pool2d, p=2, floor": (lambda: image(nn.LPPool2d(2, 2), features=12), (2, 5, 6)),
    "lp_pool2d, p=4, ceil": (lambda: image(nn.LPPool2d(4, (2, 3), ceil_mode=True), features=12), (2, 6, 6)),
    "lp_pool2d, p=3, behind relu": (lambda: image(nn.ReLU(), nn.LPPool2d(3, 2), features=12), (2, 4, 6)),
    "lp_pool1d, p=1.5, behind sigmoid and max": (
        lambda: image(nn.Sigmoid(), nn.MaxPool1d(2), nn.Flatten(2), nn.LPPool1d(1.5, 2), features=4),
        (2, 8),
    ),
    "two lp pools": (lambda: image(nn.LPPool2d(2, 2), nn.LPPool2d(2, 2, stride=1), features=4), (1, 6, 6)),
    "batch_norm 1d": (lambda: nn.Sequential(linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), linear(5, 3)), (6,)),
    "batch_norm 1d, sequence": (lambda: image(nn.BatchNorm1d(2, affine=False, eps=0.1), features=12), (2, 6)),
    "batch_norm 2d": (lambda: image(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), features=48), (1, 6, 6)),
    "batch_norm 3d": (lambda: image(nn.BatchNorm3d(2), features=16), (2, 2, 2, 2)),
    "batch_norm of a last dimension of 1": (lambda: image(nn.BatchNorm1d(1), features=1), (1,)),
    "dropouts": (lambda: image(nn.Dropout2d(0.5), nn.Conv2d(1, 2, 3), nn.Dropout(0.9), features=32), (1, 6, 6)),
    "leaky": (lambda: nn.Sequential(linear(6, 8), nn.LeakyReLU(0.3), linear(8, 3), nn.LeakyReLU(2.0)), (6,)),
    "relu in place": (lambda: nn.Sequential(linear(6, 8), nn.ReLU(inplace=True), linear(8, 3)), (6,)),
    "leaky in place": (lambda: nn.Sequential(linear(6, 8), nn.LeakyReLU(inplace=True), linear(8, 3)), (6,)),
    "sigmoid": (lambda: nn.Sequential(linear(6, 8), nn.Sigmoid(), linear(8, 3)), (6,)),
    "softplus": (lambda: nn.Sequential(linear(6, 8), nn.Softplus(beta=3, threshold=1.5), linear(8, 3)), (6,)),
    "identity": (lambda: nn.Sequential(nn.Identity(), linear(), nn.Identity()), (6,)),
    "nested": (lambda: nn.Sequential(nn.Sequential(linear(6, 5), nn.Sequential(nn.ReLU())), linear(5, 3)), (6,)),
    "transposed convolution": (lambda: image(nn.ConvTranspose2d(1, 2, 3, 2, 1, 1), features=128), (1, 4, 4)),
    "padding same, kernel of four": (lambda: image(nn.Conv1d(1, 2, 4, padding="same"), features=14), (1, 7)),
    "circular padding": (lambda: image(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), features=32), (1, 4, 4)),
    "adaptive maximum": (lambda: image(nn.AdaptiveMaxPool2d(2), features=4), (1, 4, 4)),
    "uneven adaptive pooling": (lambda: image(nn.AdaptiveAvgPool2d(3), features=9), (1, 4, 4)),
    "adaptive pooling that enlarges": (lambda: image(nn.AdaptiveAvgPool1d(8), features=8), (1, 4)),
    "decreasing leaky relu": (lambda: nn.Sequential(linear(), nn.LeakyReLU(-0.5)), (6,)),
    "instance norm": (lambda: image(nn.InstanceNorm2d(2, affine=True), features=8), (2, 2, 2)),
    "instance norm with statistics": (
        lambda: image(nn.InstanceNorm1d(2, track_running_stats=True), features=8),
        (2, 4),
    ),
    "unflatten": (lambda: image(nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 2, 2), features=4), (6,)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_graphs_of_modules_compute_what_the_modules_do(name: str) -> None:
    torch.manual_seed(0)
    build, shape = PLAIN[name]
    model = shaken(build())
    graph = pb.from_torch(model, torch.randn(2, *shape))
    assert graph.input_shape == shape
    assert differs(graph, model) < 1e-5
    assert differs(graph, model, scale=30.0) < 1e-5


def spread(s: Any, x: Tensor) -> Tensor:
    """Reshapes that leave the batch alone, in all spellings."""
    y = x.view(x.size(0), -1).unsqueeze(1).unsqueeze(-1).squeeze(3).squeeze(-2)
    y = y.reshape(len(x), 2, 1, 3).squeeze((2,)).flatten(1, -1)
    y = torch.unflatten(y, -1, (3, 2)).reshape(x.shape[0], x.shape[1])
    return s.l(torch.flatten(y.view(-1, 6), start_dim=-1))


def residual(s: Any, x: Tensor) -> Tensor:
    y = functional.relu(s.a(x), inplace=True)
    y += x
    return s.l(functional.relu_(y))


def inception(s: Any, x: Tensor) -> Tensor:
    parts = [s.a(x), s.b(x), functional.max_pool2d(x, 3, stride=1, padding=1)]
    return s.l(torch.cat(parts, dim=1).flatten(1))


def arithmetic(s: Any, x: Tensor) -> Tensor:
    y = (x - s.mean) / s.std
    y = 2 * y - 0.5 * x + (1 - y) / 4 - (-y)
    y = torch.sub(y, x, alpha=3) + torch.add(x, y, alpha=-0.5)
    y = torch.add(y, s.mean, alpha=2) + torch.sub(s.mean, y, alpha=2) + torch.rsub(y, 3, alpha=2)
    return s.l(y * s.std / s.whole)


def in_place(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    y += s.mean
    y -= 0.25
    y *= s.std
    y /= 3
    y.sub_(x, alpha=2).neg_()
    z = y.relu()
    z.mul_(2).add_(y)
    return s.l(z)


def moved_about(s: Any, x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    y = torch.cat([b[:, :, 1:], a.flip(-1)[..., ::2]], 2).permute(0, 2, 1)
    y = torch.stack([y, y.roll(1, 1)], -1)[:, :, 0]
    return s.l(torch.cat([y.flatten(1), x.mean((1, 2), keepdim=True).expand(-1, 1, 2).flatten(1)], 1))


WRITTEN: dict[str, tuple[Build, tuple[int, ...]]] = {
    "moved about": (lambda: Wrap(moved_about, l=linear(10, 3)), (2, 3)),
    "products": (lambda: Wrap(lambda s, x: s.l(x * s.a(x) + x**2), a=linear(6, 6), l=linear()), (6,)),
    "values of two shapes": (lambda: Wrap(lambda s, x: s.l((x - x.amax(1, True)).flatten(1)), l=linear()), (2, 3)),
    "a buffer in another shape": (
        lambda: Wrap(
            lambda s, x: s.l(((x - s.m.view(1, -1, 1)) / s.m[None, :, None]).flatten(1)),
            m=torch.rand(2) + 1,
            l=linear(),
        ),
        (2, 3),
    ),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(linear()), (6,)),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(linear()), (6,)),
    "orthogonal": (lambda: nn.utils.parametrizations.orthogonal(linear()), (6,)),
    "reshapes": (lambda: Wrap(spread, l=linear()), (6,)),
    "functional relu": (lambda: Wrap(lambda s, x: s.l(functional.relu(s.a(x))), a=linear(6, 6), l=linear()), (6,)),
    "relu method": (lambda: Wrap(lambda s, x: s.l(s.a(x).relu().relu_()), a=linear(6, 6), l=linear()), (6,)),
    "torch.relu_": (lambda: Wrap(lambda s, x: s.l(torch.relu_(s.a(x))), a=linear(6, 6), l=linear()), (6,)),
    "torch functions": (
        lambda: Wrap(
            lambda s, x: s.l(torch.tanh(torch.sigmoid(functional.softplus(s.a(x))))), a=linear(6, 6), l=linear()
        ),
        (6,),
    ),
    "functional pools": (
        lambda: Wrap(
            lambda s, x: s.l(functional.avg_pool2d(functional.lp_pool2d(x, 2.0, 2), 2, 1).flatten(1)), l=linear(8, 3)
        ),
        (2, 6, 6),
    ),
    "residual": (lambda: Wrap(residual, a=linear(6, 6), l=linear()), (6,)),
    "twice the same": (lambda: Wrap(lambda s, x: s.l(x + x + x), l=linear()), (6,)),
    "residual of convolutions": (
        lambda: Wrap(lambda s, x: s.l((x + s.b(s.a(x)).relu()).flatten(1)), a=nn.Conv2d(2, 2, 3, padding=1),
                     b=nn.BatchNorm2d(2), l=linear(32, 3)),
        (2, 4, 4),
    ),
    "inception": (
        lambda: Wrap(inception, a=nn.Conv2d(2, 3, 1), b=nn.Conv2d(2, 1, 3, padding=1), l=linear(96, 3)),
        (2, 4, 4),
    ),
    "concat of the last dimension": (lambda: Wrap(lambda s, x: s.l(torch.cat([x, -x], -1)), l=linear(12, 3)), (6,)),
    "concat of channels, counted from the end": (
        lambda: Wrap(lambda s, x: s.l(torch.cat([x, 2 * x, x], -3).flatten(1)), l=linear(24, 3)),
        (2, 2, 2),
    ),
    "arithmetic": (
        lambda: Wrap(
            arithmetic,
            mean=torch.rand(6),
            std=torch.rand(1, 6) + 1,
            whole=torch.tensor([1, 2, 3, 4, 5, 6]),
            l=linear(),
        ),
        (6,),
    ),
    "normalised images": (
        lambda: Wrap(
            lambda s, x: s.l(((x - s.mean) / s.std).flatten(1)),
            mean=torch.rand(1, 3, 1, 1), std=torch.rand(3, 1, 1) + 0.5, l=linear(12, 3),
        ),
        (3, 2, 2),
    ),
    "constants written in the forward pass": (
        lambda: Wrap(lambda s, x: s.l(x - torch.tensor([1.0, 2, 3, 4, 5, 6])), l=linear()),
        (6,),
    ),
    "a scalar buffer": (lambda: Wrap(lambda s, x: s.l(x - s.m), m=torch.tensor(0.3), l=linear()), (6,)),
    "in place": (lambda: Wrap(in_place, mean=torch.rand(6), std=torch.rand(6), a=linear(6, 6), l=linear()), (6,)),
    "one module twice": (lambda: Wrap(lambda s, x: s.l(s.r(s.a(s.r(s.a(x))))), a=linear(6, 6), r=nn.ReLU(), l=linear()),
                         (6,)),
    "matrix products": (
        lambda: Wrap(lambda s, x: torch.addmm(s.b, torch.mm(x @ s.w, s.w), s.v), w=torch.randn(6, 6),
                     v=torch.randn(6, 3), b=torch.randn(3)),
        (6,),
    ),
    "addmm with a bias of shape (1, classes)": (
        lambda: Wrap(lambda s, x: torch.addmm(s.b, x, s.v), v=torch.randn(6, 3), b=torch.randn(1, 3)),
        (6,),
    ),
    "copies": (lambda: Wrap(lambda s, x: s.l(x.clone().detach().contiguous()), l=linear()), (6,)),
    "a transposed parameter": (
        lambda: Wrap(lambda s, x: functional.linear(x, s.w), w=nn.Parameter(torch.randn(6, 3).t())),
        (6,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_graphs_of_written_forward_passes_compute_the_same(name: str) -> None:
    torch.manual_seed(0)
    build, shape = WRITTEN[name]
    model = shaken(build())
    graph = pb.from_torch(model, torch.randn(2, *shape))
    assert differs(graph, model) < 1e-5
    assert differs(graph, model, scale=30.0) < 1e-5


@pytest.mark.parametrize(
    ("function", "finish"),
    [
        (lambda s, x: s.l(x).softmax(1), lambda z: z.softmax(1)),
        (lambda s, x: functional.log_softmax(s.l(x), dim=-1), lambda z: z.log_softmax(1)),
        (lambda s, x: functional.softmax(s.l(x)), lambda z: z.softmax(1)),
        (lambda s, x: nn.LogSoftmax(dim=1)(s.l(x)), lambda z: z.log_softmax(1)),
    ],
)
def test_a_final_softmax_is_dropped(function: Function, finish: Function) -> None:
    model = Wrap(function, l=linear())
    graph = pb.from_torch(model, torch.randn(2, 6))
    assert differs(graph, model, finish=finish) < 1e-5
    x = torch.randn(3, 6)
    with torch.no_grad():
        assert torch.equal(graph(x), model.l(x))
    assert [type(node.layer) for node in graph.nodes] == [layers.Dense]


def test_shared_weights_are_used_at_both_places() -> None:
    model = nn.Sequential(linear(6, 6), nn.ReLU(), linear(6, 6), nn.ReLU(), linear())
    model[2].weight = model[0].weight
    assert differs(pb.from_torch(model, torch.zeros(1, 6)), model) < 1e-5


def test_float64_models_stay_float64() -> None:
    model = shaken(nn.Sequential(linear(6, 5), nn.BatchNorm1d(5), nn.Softplus(), linear(5, 3))).double()
    graph = pb.from_torch(model, torch.zeros(1, 6, dtype=torch.float64))
    assert graph.dtype == torch.float64
    assert differs(graph, model) < 1e-13


def test_constants_of_a_float64_model_are_not_rounded() -> None:
    model = Wrap(lambda s, x: (s.l(x) * 0.1 + 0.7) / s.c, l=linear(), c=torch.rand(3) + 1).double()
    assert differs(pb.from_torch(model, torch.zeros(1, 6, dtype=torch.float64)), model) < 1e-14


class Variadic(nn.Module):
    """Takes whatever it is given, as generic wrappers do."""

    def __init__(self) -> None:
        super().__init__()
        self.l = linear()

    def forward(self, *inputs: Tensor, **options: Any) -> Tensor:
        return self.l(*inputs, **options)


def test_a_forward_with_variadic_arguments_is_traced() -> None:
    model = Variadic()
    assert differs(pb.from_torch(model, torch.zeros(1, 6)), model) < 1e-5


@pytest.mark.parametrize("batch", [1, 2, 3, 50])
def test_the_examples_batch_size_does_not_matter(batch: int) -> None:
    model = Wrap(lambda s, x: s.l(x.view(x.size(0), -1)), l=linear())
    assert differs(pb.from_torch(model, torch.randn(batch, 2, 3)), model) < 1e-5


@pytest.mark.parametrize(
    "example",
    [
        torch.full((2, 6), math.nan),
        torch.full((1, 6), math.inf),
        torch.full((1, 6), 1e38),
        torch.randn(6, 2).t(),
        torch.randn(2, 6, requires_grad=True),
        torch.randn(1, 6).expand(4, 6),
    ],
    ids=["nan", "inf", "huge", "transposed", "wants gradients", "expanded"],
)
def test_only_shape_and_dtype_of_the_example_matter(example: Tensor) -> None:
    model = nn.Sequential(linear(6, 8), nn.ReLU(), linear(8, 3))
    assert differs(pb.from_torch(model, example), model) < 1e-5


@pytest.mark.parametrize("training", [True, False])
def test_the_users_model_is_left_as_it_was(training: bool) -> None:
    model = image(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Dropout(0.5), features=48)
    model.train(training)
    model[1].eval()
    model[0].weight.requires_grad_(False)
    flags = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    state = copy.deepcopy(model.state_dict())
    example = torch.randn(3, 1, 6, 6)
    before = example.clone()
    graph = pb.from_torch(model, example)
    assert [module.training for module in model.modules()] == flags
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(example, before)
    assert differs(graph, model.eval()) < 1e-5


def test_a_graph_keeps_its_weights_when_the_model_changes() -> None:
    model = nn.Sequential(linear(6, 8), nn.ReLU(), linear(8, 3))
    graph = pb.from_torch(model, torch.zeros(1, 6))
    x = torch.randn(4, 6)
    before = graph(x)
    assert graph.original is not None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    assert torch.equal(graph(x), before)
    assert torch.allclose(graph.original(x), before, atol=1e-5)


def test_conversion_leaves_the_global_random_state_and_modes_alone() -> None:
    model = image(nn.Conv2d(1, 3, 3), nn.Dropout(0.5), features=48)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    pb.from_torch(model, torch.zeros(1, 1, 6, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


def test_gradients_flow_through_a_graph() -> None:
    model = nn.Sequential(linear(6, 8), nn.Tanh(), linear(8, 3))
    graph = pb.from_torch(model, torch.zeros(1, 6))
    x = torch.randn(4, 6, requires_grad=True)
    (got,) = torch.autograd.grad(graph(x)[:, 0].sum(), x)
    (expected,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    assert torch.allclose(got, expected, atol=1e-6)


def test_parts_that_the_output_does_not_need_are_left_out() -> None:
    model = Wrap(lambda s, x: (s.unused(x) * 2, s.l(x))[1], l=linear(), unused=linear(6, 100))
    graph = pb.from_torch(model, torch.zeros(1, 6))
    assert [type(node.layer) for node in graph.nodes] == [layers.Dense]
    assert graph.nodes[0].where == "l (Linear)"


# --- what is refused, and how ----------------------------------------------------------------------------------


def relu_attention(s: Any, x: Tensor) -> Tensor:
    return s.l(s.attend(x, x, x, need_weights=False)[0].flatten(1))


def data_dependent(s: Any, x: Tensor) -> Tensor:
    return s.l(x) if x.sum() > 0 else -s.l(x)


UNSUPPORTED: dict[str, tuple[Build, tuple[int, ...], list[str]]] = {
    "softshrink": (lambda: nn.Sequential(linear(), nn.Softshrink()), (6,), ["softshrink", r"1 \(Softshrink\)"]),
    "deeper": (
        lambda: nn.Sequential(linear(), nn.Sequential(nn.ReLU(), nn.Sequential(nn.Hardshrink()))),
        (6,),
        ["hardshrink", r"1\.1\.0 \(Hardshrink\)"],
    ),
    "exponential": (lambda: Wrap(lambda s, x: s.l(x).exp(), l=linear()), (6,), ["exp"]),
    "normalised by its own deviation": (
        lambda: Wrap(lambda s, x: s.l((x - x.mean(1, True)) / x.std(1, keepdim=True)), l=linear()),
        (6,),
        ["std"],
    ),
    "cube": (lambda: Wrap(lambda s, x: s.l(x**3), l=linear()), (6,), [r"pow\.Tensor_Scalar", "exponent 3"]),
    "a product of matrices": (
        lambda: Wrap(lambda s, x: s.l((x @ x.mT).flatten(1)), l=linear(4, 3)),
        (2, 3),
        [r"matmul", "weights that depend on the input"],
    ),
    "a jump": (
        lambda: nn.Sequential(linear(), nn.Threshold(0.5, 0.0)),
        (6,),
        ["threshold", r"1 \(Threshold\)", "jumps"],
    ),
    "layer norm without eps": (
        lambda: nn.Sequential(nn.LayerNorm(6, eps=0.0), linear()),
        (6,),
        ["layer_norm", r"0 \(LayerNorm\)", "eps"],
    ),
    "recurrent layers with the time first": (
        lambda: Wrap(lambda s, x: s.l(s.r(x)[0][:, -1]), r=nn.LSTM(3, 2), l=linear(2, 3)),
        (4, 3),
        ["lstm", "batch_first"],
    ),
    "recurrent layers with projections": (
        lambda: Wrap(
            lambda s, x: s.l(s.r(x)[0][:, -1]), r=nn.LSTM(3, 4, proj_size=2, batch_first=True), l=linear(2, 3)
        ),
        (4, 3),
        ["lstm", "projections"],
    ),
    "adaptive maximum of unequal windows": (
        lambda: image(nn.AdaptiveMaxPool2d(3), features=9),
        (1, 4, 4),
        ["adaptive_max_pool2d", "unequal"],
    ),
    "the places of maxima": (
        lambda: Wrap(lambda s, x: s.l(x.max(1)[1] * 1.0), l=linear(3, 3)),
        (2, 3),
        ["mul", "operands"],
    ),
    "attention": (
        lambda: Wrap(relu_attention, attend=nn.MultiheadAttention(4, 2, batch_first=True), l=linear(12, 3)),
        (3, 4),
        ["attend"],
    ),
    "quotient": (lambda: Wrap(lambda s, x: s.l(x / (x + 9)), l=linear()), (6,), [r"div\.Tensor"]),
    "constant over value": (lambda: Wrap(lambda s, x: s.l(s.c / x), c=torch.rand(6), l=linear()), (6,), [r"div\.T"]),
    "sums of two shapes": (
        lambda: Wrap(lambda s, x: s.l(x + x.view(-1, 1, 2, 3)).flatten(1), l=linear(3, 3)),
        (2, 3),
        [r"add\.Tensor", "number of dimensions"],
    ),
    "softmax in the middle": (
        lambda: nn.Sequential(linear(6, 4), nn.Softmax(1), linear(4, 3)),
        (6,),
        ["softmax", r"2 \(Linear\)"],
    ),
    "softmax, then a reshape": (
        lambda: nn.Sequential(linear(6, 4), nn.Softmax(1), nn.Flatten()),
        (6,),
        ["softmax", r"2 \(Flatten\)"],
    ),
    "softmax over another dimension": (
        lambda: nn.Sequential(nn.Softmax(1), nn.Flatten(), linear()),
        (2, 3),
        ["softmax", r"0 \(Softmax\)"],
    ),
    "indices of maxima": (
        lambda: Wrap(lambda s, x: s.l(s.pool(x)[0].flatten(1)), pool=nn.MaxPool2d(2, return_indices=True), l=linear()),
        (1, 4, 6),
        ["max_pool2d", r"pool \(MaxPool2d\)"],
    ),
    "lp pooling of signed inputs": (
        lambda: image(nn.Conv2d(1, 2, 3), nn.LPPool2d(3, 2), features=8),
        (1, 6, 6),
        ["p = 3", r"1 \(LPPool2d\)"],
    ),
    "lp pooling behind a shift": (
        lambda: Wrap(lambda s, x: s.l(functional.lp_pool1d(x.relu() - 1, 3.0, 2).flatten(1)), l=linear(3, 3)),
        (1, 6),
        ["p = 3"],
    ),
    "lp pooling behind a leaky relu": (
        lambda: image(nn.LeakyReLU(), nn.LPPool1d(1, 2), features=3),
        (1, 6),
        ["p = 1"],
    ),
    "lp pooling of a fractional root": (
        lambda: image(nn.ReLU(), nn.LPPool1d(0.5, 2), features=3),
        (1, 6),
        [r"p = 0\.5", "LPPool1d"],
    ),
    "lp pooling with a partial window": (
        lambda: image(nn.ReLU(), nn.LPPool2d(2, 2, ceil_mode=True), features=9),
        (1, 5, 5),
        ["ceil_mode", r"1 \(LPPool2d\)"],
    ),
    "infinite leaky relu": (lambda: nn.Sequential(linear(), nn.LeakyReLU(math.inf)), (6,), ["leaky_relu", "inf"]),
    "softplus with a negative beta": (
        lambda: nn.Sequential(linear(), nn.Softplus(beta=-1.0)),
        (6,),
        ["softplus", r"1 \(Softplus\)", "beta"],
    ),
    "divided by a constant 0": (
        lambda: Wrap(lambda s, x: s.l(x) / s.c, c=torch.tensor([1.0, 0.0, 2.0]), l=linear()),
        (6,),
        ["NaN or infinite"],
    ),
    "rounded": (
        lambda: Wrap(lambda s, x: torch.div(s.l(x), 0.1, rounding_mode="floor"), l=linear()),
        (6,),
        ["div"],
    ),
    "flatten from the batch": (
        lambda: Wrap(lambda s, x: s.l(x).flatten(0), l=linear()),
        (6,),
        ["flatten", "batch"],
    ),
    "view across the batch": (lambda: Wrap(lambda s, x: s.l(x.view(-1, 3)), l=linear(3, 3)), (6,), ["view", "batch"]),
    "concatenated batches": (
        lambda: Wrap(lambda s, x: torch.cat([s.l(x), s.l(x)]), l=linear()),
        (6,),
        ["cat", "batch dimension"],
    ),
    "mean of the batch": (lambda: Wrap(lambda s, x: s.l(x - x.mean(0)), l=linear()), (6,), ["mean"]),
    "transposed batch": (lambda: Wrap(lambda s, x: s.l(x.t().t()), l=linear()), (6,), [r"t\.default"]),
    "a constant per sample of the batch": (
        lambda: Wrap(lambda s, x: s.l(x + s.c), c=torch.rand(2, 6), l=linear()),
        (6,),
        [r"add\.Tensor", r"\(2, 6\)"],
    ),
    "batch norm without statistics": (
        lambda: nn.Sequential(linear(), nn.BatchNorm1d(3, track_running_stats=False)),
        (6,),
        ["batch_norm", r"1 \(BatchNorm1d\)", "batch itself"],
    ),
    "dropout that stays random": (
        lambda: Wrap(lambda s, x: functional.dropout(s.l(x), 0.5, training=True), l=linear()),
        (6,),
        ["dropout", "random"],
    ),
    "noise": (lambda: Wrap(lambda s, x: s.l(x) + torch.randn_like(x[:, :3]), l=linear()), (6,), ["aten"]),
    "weights that depend on the input": (
        lambda: Wrap(lambda s, x: functional.linear(x, s.l(x)[0:1, :]), l=linear(6, 6)),
        (6,),
        ["aten"],
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_operators_without_a_bound_are_named_with_their_place(name: str) -> None:
    torch.manual_seed(0)
    build, shape, expected = UNSUPPORTED[name]
    with pytest.raises(pb.UnsupportedLayerError) as refusal:
        pb.from_torch(build().eval(), torch.randn(2, *shape))
    for pattern in expected:
        assert refusal.match(pattern)


def returns_a_dictionary(s: Any, x: Tensor) -> dict[str, Tensor]:
    return {"logits": s.l(x)}


def counts(s: Any, x: Tensor) -> Tensor:
    s.calls += 1
    return s.l(x)


CONVERSION: dict[str, tuple[Build, tuple[int, ...], str]] = {
    "two outputs": (lambda: Wrap(lambda s, x: (s.l(x), s.l(x)), l=linear()), (6,), "tuple"),
    "one output in a tuple": (lambda: Wrap(lambda s, x: (s.l(x),), l=linear()), (6,), "tuple"),
    "dictionary": (lambda: Wrap(returns_a_dictionary, l=linear()), (6,), "dict"),
    "nothing": (lambda: Wrap(lambda s, x: None, l=linear()), (6,), "NoneType"),
    "identity": (lambda: nn.Identity(), (6,), "layer|unchanged"),
    "dropout alone": (lambda: nn.Dropout(), (6,), "layer|unchanged"),
    "softmax of the input": (lambda: nn.Softmax(1), (6,), "layer|unchanged"),
    "constant": (lambda: Wrap(lambda s, x: s.c, c=torch.rand(2, 3)), (6,), "depend|batch"),
    "images out": (lambda: nn.Conv2d(1, 3, 3), (1, 4, 4), r"\(batch, classes\)"),
    "one class": (lambda: nn.Linear(6, 1), (6,), r"at least 2 classes.*\(1, 1\)"),
    "no class": (lambda: nn.Linear(6, 0), (6,), "at least 2 classes"),
    "data-dependent": (lambda: Wrap(data_dependent, l=linear()), (6,), "data-dependent|control flow"),
    "buffers that change": (lambda: Wrap(counts, l=linear(), calls=torch.zeros(())), (6,), "changes"),
    "fixed batch": (lambda: Wrap(lambda s, x: s.l(x.view(2, 6)), l=linear()), (2, 3), "batch"),
    "first sample decides": (
        lambda: Wrap(lambda s, x: s.l(x) if len(x) < 3 else 2 * s.l(x), l=linear()),
        (6,),
        "something else",
    ),
}


@pytest.mark.parametrize("name", CONVERSION)
def test_models_that_are_no_classifier_of_one_tensor_are_refused(name: str) -> None:
    build, shape, message = CONVERSION[name]
    with pytest.raises(pb.ConversionError, match=message):
        pb.from_torch(build().eval(), torch.randn(2, *shape))


def test_a_model_that_is_random_in_evaluation_mode_is_refused() -> None:
    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l = linear()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.l(x) * self.calls

    with pytest.raises(pb.ConversionError):
        pb.from_torch(Random(), torch.randn(2, 6))


def test_a_model_with_two_inputs_is_refused() -> None:
    with pytest.raises(pb.PertboundError, match="input2"):
        pb.from_torch(nn.Bilinear(6, 6, 3), torch.randn(2, 6))


def test_an_optional_second_input_is_left_at_its_default() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l = linear()

        def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
            return self.l(x) * scale

    model = Optional()
    assert differs(pb.from_torch(model, torch.randn(2, 6)), model) < 1e-5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("kind", "name"), [("Linear", "bias"), ("Conv2d", "weight"), ("BatchNorm2d", "running_var"), ("Linear", "weight")]
)
def test_weights_that_are_not_finite_are_refused_with_their_layer(bad: float, kind: str, name: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)).eval()
    place = {"Conv2d": "0", "BatchNorm2d": "1", "Linear": "4"}[kind]
    with torch.no_grad():
        getattr(model.get_submodule(place), name).view(-1)[1] = bad
    if (name, bad) == ("running_var", math.inf):  # 1 / sqrt(inf) = 0: a channel that is switched off
        assert differs(pb.from_torch(model, torch.zeros(2, 1, 6, 6)), model) < 1e-5
        return
    with pytest.raises(pb.UnsupportedLayerError, match="NaN or infinite") as refusal:
        pb.from_torch(model, torch.zeros(2, 1, 6, 6))
    assert refusal.match(rf"{place} \({kind}\)")


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.uint8, torch.bool]
)
def test_examples_of_other_dtypes_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(pb.InputError, match=str(dtype)):
        pb.from_torch(linear(), torch.zeros(2, 6).to(dtype))
    with pytest.raises(pb.InputError, match=str(dtype)):
        pb.from_torch(nn.ReLU(), torch.zeros(2, 6).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_another_dtype_than_the_example_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(pb.InputError, match=str(dtype)):
        pb.from_torch(linear().to(dtype), torch.zeros(2, 6))


def test_mixed_dtypes_are_refused() -> None:
    with pytest.raises(pb.InputError, match="float16"):
        pb.from_torch(nn.Sequential(linear(6, 6).half(), linear()), torch.zeros(2, 6))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.zeros(2, 5), r"\(2, 5\)"),
        (torch.zeros(2, 6, 1), r"\(2, 6, 1\)"),
        (torch.zeros(6), r"\(6,\)"),
        (torch.tensor(1.0), r"\(\)"),
        (torch.zeros(0, 6), r"\(0, 6\)"),
        ([[0.0] * 6], "list"),
        (None, "NoneType"),
        (torch.zeros(2, 6).numpy(), "ndarray"),
    ],
)
def test_examples_that_the_model_cannot_take_are_refused(example: Any, message: str) -> None:
    with pytest.raises(pb.InputError, match=message):
        pb.from_torch(linear(), example)


class Insists(nn.Module):
    """Fails on its own terms for a wrong shape, as hand-written models do."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.l = linear()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 6:
            raise self.error("expected 6 features")
        return self.l(x)


@pytest.mark.parametrize("error", [AssertionError, KeyError, AttributeError, ZeroDivisionError, NotImplementedError])
def test_whatever_a_model_raises_for_the_example_becomes_an_input_error(error: type[Exception]) -> None:
    with pytest.raises(pb.InputError, match="expected 6 features"):
        pb.from_torch(Insists(error), torch.zeros(2, 5))


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    model = nn.utils.weight_norm(linear())
    model(torch.zeros(1, 6))  # from here on its weight is computed, and cannot be deep-copied
    with pytest.raises(pb.PertboundError):
        pb.from_torch(model, torch.zeros(2, 6))


@pytest.mark.parametrize("model", [lambda x: x, None, "net.pt", torch.relu], ids=["lambda", "None", "path", "relu"])
def test_what_is_no_module_is_refused(model: Any) -> None:
    with pytest.raises(pb.PertboundError):
        pb.from_torch(model, torch.zeros(2, 6))


def test_a_squeeze_that_would_take_the_batch_too_does_not_crash_the_attack() -> None:
    model = Wrap(lambda s, x: s.l(x.unsqueeze(1)).squeeze(), l=linear())
    try:
        graph = pb.from_torch(model, torch.zeros(2, 6))
    except pb.PertboundError:
        return
    x = torch.randn(1, 6)
    assert graph(x).shape == (1, 3)
    assert pb.attack(graph, x, pb.FastGradientSign(max_epsilon=100.0)).found.shape == (1,)


# --- memory that names share: correct or refused, never wrong ---------------------------------------------------


def view_then_change(s: Any, x: Tensor) -> Tensor:
    y = s.l(x) + 100
    z = y.view(y.size(0), -1)
    functional.relu_(y)
    return z * 1


def change_a_view(s: Any, x: Tensor) -> Tensor:
    y = s.l(x) + 100
    functional.relu_(y.view(-1, 3))
    return y * 1


def change_a_view_of_a_view(s: Any, x: Tensor) -> Tensor:
    y = s.l(x) + 100
    y.unsqueeze(1).flatten(1).relu_()
    return y * 1


def change_through_dropout(s: Any, x: Tensor) -> Tensor:
    y = s.l(x) + 100
    functional.relu_(functional.dropout(y, training=False))
    return y * 1


def change_through_detach(s: Any, x: Tensor) -> Tensor:
    y = s.l(x) + 100
    y.detach().relu_()
    return y * 1


def change_through_contiguous(s: Any, x: Tensor) -> Tensor:
    y = s.l(x) + 100
    y.contiguous().relu_()
    return y * 1


def change_through_identity(s: Any, x: Tensor) -> Tensor:
    y = s.l(x) + 100
    nn.Identity()(y).relu_()
    return y * 1


def change_a_slice(s: Any, x: Tensor) -> Tensor:
    y = s.l(x) + 100
    y[:, 1:].relu_()
    return y * 1


def change_an_alias(s: Any, x: Tensor) -> Tensor:
    y = s.l(x) + 100
    z = y.add_(1)
    functional.relu_(z)
    return y * 1


def change_an_alias_after_a_view(s: Any, x: Tensor) -> Tensor:
    y = s.l(x) + 100
    z = y.add_(1)
    v = z.view(-1, 3)
    functional.relu_(y)
    return v * 1


def change_before_the_view(s: Any, x: Tensor) -> Tensor:
    y = s.l(x) + 100
    functional.relu_(y)
    return y.view(-1, 3) * 1


def change_the_input(s: Any, x: Tensor) -> Tensor:
    return s.l((x + 0).add_(1)) + s.l(x)


def change_the_very_input(s: Any, x: Tensor) -> Tensor:
    return s.l(functional.leaky_relu_(x, 1.0))


def change_a_clone(s: Any, x: Tensor) -> Tensor:
    y = s.l(x) + 100
    functional.relu_(y.clone())
    return y * 1


def change_a_summand(s: Any, x: Tensor) -> Tensor:
    y = s.l(x) + 100
    z = y + y
    functional.relu_(y)
    return z + y


def change_what_was_concatenated(s: Any, x: Tensor) -> Tensor:
    y = s.l(x) + 100
    z = torch.cat([y], 1)
    functional.relu_(y)
    return z * 1


def change_what_was_pooled(s: Any, x: Tensor) -> Tensor:
    y = s.l(x).unsqueeze(1) + 100
    z = functional.avg_pool1d(y, 1) + 0
    functional.relu_(y)
    return z.flatten(1)


def write_into_an_earlier_value(s: Any, x: Tensor) -> Tensor:
    y = s.l(x) + 100
    v = y.view(-1, 3)
    torch.mul(y, 1.0, out=y)
    y.relu_()
    return v * 1


def write_relu_into_another(s: Any, x: Tensor) -> Tensor:
    y = s.l(x) + 100
    z = s.l(x)
    torch.add(y, 1.0, out=z)
    return z * 1


def squeeze_in_place(s: Any, x: Tensor) -> Tensor:
    y = s.l(x).unsqueeze(1) * 1
    z = y.flatten(1)
    y.squeeze_(1)
    return y + z


def change_a_constant(s: Any, x: Tensor) -> Tensor:
    c = s.c.clone()
    c.add_(1)
    return s.l(x) + c


def change_a_buffer(s: Any, x: Tensor) -> Tensor:
    s.c.mul_(1.0)
    return s.l(x) + s.c


def lp_pool_with_a_change_inside(s: Any, x: Tensor) -> Tensor:
    y = s.l(x).unsqueeze(1) + 100
    mean = functional.avg_pool1d(y.pow(2.0), 3)
    functional.relu_(y)
    pooled = (torch.sign(mean) * functional.relu(torch.abs(mean))).mul(3).pow(0.5)
    return torch.cat([pooled.flatten(1), y.flatten(1)], 1)


ALIASING = [
    view_then_change, change_a_view, change_a_view_of_a_view, change_through_dropout, change_through_detach,
    change_through_contiguous, change_through_identity, change_a_slice, change_an_alias, change_an_alias_after_a_view,
    change_before_the_view, change_the_input, change_the_very_input, change_a_clone, change_a_summand,
    change_what_was_concatenated, change_what_was_pooled, write_into_an_earlier_value, write_relu_into_another,
    squeeze_in_place, change_a_constant, change_a_buffer, lp_pool_with_a_change_inside,
]  # fmt: skip


@pytest.mark.parametrize("function", ALIASING, ids=lambda f: f.__name__)
def test_changes_in_place_are_followed_or_refused(function: Function) -> None:
    """The shift by 100 hides a ReLU from the comparison on small random inputs; inputs of size 1,000 show it."""
    torch.manual_seed(0)
    model = Wrap(function, l=linear(), c=torch.rand(3))
    try:
        graph = pb.from_torch(model, torch.randn(2, 6))
    except pb.PertboundError:
        return
    assert differs(graph, model) < 1e-5
    assert differs(graph, model, scale=1000.0) < 1e-5


def test_the_ordinary_uses_of_operators_in_place_are_not_refused() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout(0.5, inplace=True),
        nn.Flatten(), nn.Linear(12, 8), nn.LeakyReLU(inplace=True), nn.Dropout(), nn.Linear(8, 3),
    )  # fmt: skip
    model = shaken(model)
    assert differs(pb.from_torch(model, torch.randn(2, 1, 6, 6)), model) < 1e-5


# --- random architectures ---------------------------------------------------------------------------------------


@st.composite
def architectures(draw: st.DrawFn) -> tuple[list[nn.Module], tuple[int, ...]]:
    """A chain of layers on an image, and the image's shape; every layer is chosen to fit the shape before it."""
    shape: tuple[int, ...] = (draw(st.integers(1, 3)), draw(st.integers(4, 8)), draw(st.integers(4, 8)))
    first = shape
    modules: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 5))):
        channels, *sides = shape
        small = min(sides) < 3
        kind = draw(st.sampled_from(["activation", "norm", "dropout"] if small else
                                    ["conv", "max", "average", "lp", "activation", "norm", "dropout"]))  # fmt: skip
        stride, pad = draw(st.integers(1, 2)), draw(st.integers(0, 1))
        ceil = draw(st.booleans())
        if kind == "conv":
            out = channels * draw(st.integers(1, 2))
            groups = draw(st.sampled_from([1, channels]))
            modules.append(nn.Conv2d(channels, out, draw(st.integers(1, 3)), stride, pad, groups=groups))
        elif kind == "max":
            modules.append(nn.MaxPool2d(draw(st.integers(2, 3)), stride, pad, ceil_mode=ceil))
        elif kind == "average":
            modules.append(nn.AvgPool2d(draw(st.integers(2, 3)), stride, pad, ceil, draw(st.booleans())))
        elif kind == "lp":
            modules.append(nn.LPPool2d(2.0, draw(st.integers(1, 3)), stride))
        elif kind == "activation":
            modules.append(draw(st.sampled_from([nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.2), nn.Sigmoid(),
                                                 nn.Tanh(), nn.Softplus(2.0, 5.0)])))  # fmt: skip
        elif kind == "norm":
            modules.append(nn.BatchNorm2d(channels, affine=draw(st.booleans())))
        else:
            modules.append(nn.Dropout(0.5))
        with torch.no_grad():
            shape = tuple(nn.Sequential(*modules).eval()(torch.zeros(1, *first)).shape[1:])
    modules += [nn.Flatten(), nn.Linear(math.prod(shape), draw(st.integers(2, 4)))]
    return modules, first


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(architectures())
def test_random_chains_agree_with_their_modules(drawn: tuple[list[nn.Module], tuple[int, ...]]) -> None:
    modules, shape = drawn
    model = shaken(nn.Sequential(*modules))
    graph = pb.from_torch(model, torch.randn(1, *shape))
    assert differs(graph, model) < 1e-5


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=8))
def test_random_graphs_agree_with_their_functions(steps: list[tuple[int, int, int]]) -> None:
    """Sums, differences, scalings, activations and changes in place of values picked at random."""

    def forward(s: Any, x: Tensor) -> Tensor:
        values = [x, s.a(x), s.b(x)]
        for operator, left, right in steps:
            one, other = values[left % len(values)], values[right % len(values)]
            if operator == 0:
                values.append(one + other)
            elif operator == 1:
                values.append(torch.sub(one, other, alpha=2))
            elif operator == 2:
                values.append(0.5 - one)
            elif operator == 3:
                values.append(s.a(one).relu_())
            elif operator == 4:
                values.append(one.unflatten(1, (2, 3)).tanh().flatten(1))
            else:
                values.append(s.a(one).mul_(2).add_(other))
        return s.l(torch.cat(values, 1))

    torch.manual_seed(len(steps))
    model = Wrap(forward, a=linear(6, 6), b=linear(6, 6), l=linear(6 * (3 + len(steps)), 3))
    assert differs(pb.from_torch(model, torch.randn(2, 6)), model) < 1e-5
