"""Exported files end to end: the graph that the module itself gives, or a refusal on purpose."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import pertbound as pb
from pertbound.frontends import conversion

pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec", "ignore:No complete tensor")

Function = Callable[..., Any]
MODEL = "models/model.json"
INTEGERS = [-1, 0, 1, 2, 3, 7, -5, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 64, -(1 << 63)]
FLOATS: list[Any] = [0.0, -1.0, 1e308, -1e308, 5e-324, 1e39, "NaN", "Infinity", "-Infinity", float("nan")]


class Everything(nn.Module):
    """Nearly every supported operator, on 1 x 8 x 8 images."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(1, 8, 8))
        self.conv = nn.Conv2d(1, 2, 3, padding="same")
        self.norm = nn.BatchNorm2d(2)
        self.sequence = nn.Conv1d(2, 2, 3, dilation=2, groups=2)
        self.hidden = nn.Linear(24, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.norm(self.conv((x - self.mean) / 0.5)), 0.2, inplace=True)
        x = functional.max_pool2d(functional.avg_pool2d(x, 3, 1, 1), 2, ceil_mode=True)
        x = functional.adaptive_avg_pool2d(functional.lp_pool2d(x.relu(), 3.0, 1), (4, 2))
        x = x.flatten(2).unflatten(1, (2, 1)).squeeze(2)
        x = self.sequence(torch.cat([x, 1 - x], dim=2))
        x = functional.softplus(self.hidden(x.view(x.size(0), -1)), beta=2, threshold=10)
        x = functional.dropout(torch.sigmoid(x) + torch.tanh(x) - 0.5 * x, 0.5, self.training)
        return self.last(x)


class Wrap(nn.Module):
    def __init__(self, function: Function, **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def save(path: Path, model: nn.Module, example: Tensor, *, dynamic: bool = True) -> Path:
    shapes = ({0: torch.export.Dim.AUTO},) if dynamic else None
    torch.export.save(torch.export.export(model.eval().requires_grad_(False), (example,), dynamic_shapes=shapes), path)
    return path


def shaken(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1.0, 1.0)
            nn.init.uniform_(module.running_var, 0.2, 2.0)
    return model.eval()


@pytest.fixture(scope="module")
def everything() -> nn.Module:
    torch.manual_seed(0)
    return shaken(Everything())


@pytest.fixture(scope="module")
def saved(everything: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("saved") / "net.pt2", everything, torch.randn(2, 1, 8, 8))


def test_a_file_gives_the_graph_that_its_module_gives(everything: nn.Module, saved: Path) -> None:
    read, direct = pb.from_pt2(saved), pb.from_torch(everything, torch.randn(1, 1, 8, 8))
    assert [type(node.layer) for node in read.nodes] == [type(node.layer) for node in direct.nodes]
    assert [node.inputs for node in read.nodes] == [node.inputs for node in direct.nodes]
    assert (read.input_shape, read.classes, read.dtype) == ((1, 8, 8), 3, torch.float32)
    assert read.original is None
    for batch in (1, 2, 7):
        x = torch.randn(batch, 1, 8, 8)
        assert torch.equal(read(x), direct(x))
        with torch.no_grad():
            assert torch.allclose(read(x), everything(x), atol=1e-5)


def test_bounds_and_attacks_agree_too(everything: nn.Module, saved: Path) -> None:
    read, direct = pb.from_pt2(saved), pb.from_torch(everything, torch.randn(1, 1, 8, 8))
    x = torch.randn(4, 1, 8, 8)
    one, other = (pb.certify(graph, x, pb.Lipschitz()).radius for graph in (read, direct))
    assert torch.allclose(one, other, rtol=1e-9)
    attacks = [pb.attack(graph, x, pb.FastGradientSign(max_epsilon=2.0)) for graph in (read, direct)]
    assert torch.equal(attacks[0].distance, attacks[1].distance)


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_may_be_fixed_or_dynamic(tmp_path: Path, dynamic: bool, batch: int) -> None:
    model = Wrap(lambda s, x: s.l(x.view(x.size(0), -1)), l=nn.Linear(6, 3))
    graph = pb.from_pt2(save(tmp_path / "net.pt2", model, torch.randn(max(batch, 1 + dynamic), 2, 3), dynamic=dynamic))
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        assert torch.allclose(graph(x), model(x), atol=1e-6)


def test_a_path_may_be_a_string_and_a_final_softmax_is_dropped(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 3), nn.LogSoftmax(1))
    graph = pb.from_pt2(str(save(tmp_path / "net.pt2", model, torch.randn(2, 6))))
    x = torch.randn(4, 6)
    with torch.no_grad():
        assert torch.allclose(graph(x), model[0](x), atol=1e-6)


def test_float64_files_stay_float64(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    graph = pb.from_pt2(save(tmp_path / "net.pt2", model, torch.randn(2, 6).double()))
    assert graph.dtype == torch.float64
    x = torch.randn(4, 6).double()
    with torch.no_grad():
        assert torch.allclose(graph(x), model(x), atol=1e-14)


def test_operators_with_several_results_are_read(tmp_path: Path) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.LSTM(3, 2, batch_first=True)
            self.weighted = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))

        def forward(self, x: Tensor) -> Tensor:
            out, (last, _) = self.recurrent(x)
            a, b = out[:, -2:].max(1).values.chunk(2, 1)
            return self.weighted(torch.cat([b, last[-1], a], 1))

    model = Gated().eval()
    graph = pb.from_pt2(save(tmp_path / "net.pt2", model, torch.randn(2, 4, 3)))
    x = torch.randn(5, 4, 3)
    with torch.no_grad():
        assert torch.allclose(graph(x), model(x), atol=1e-6)


def test_decomposed_programs_are_read_too(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(32, 3)).eval()
    program = torch.export.export(model, (torch.randn(2, 1, 6, 6),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.export.save(program, tmp_path / "plain.pt2")
    x = torch.randn(3, 1, 6, 6)
    with torch.no_grad():
        assert torch.allclose(pb.from_pt2(tmp_path / "plain.pt2")(x), model(x), atol=1e-5)
    torch.export.save(program.run_decompositions(), tmp_path / "decomposed.pt2")
    try:
        graph = pb.from_pt2(tmp_path / "decomposed.pt2")
    except pb.UnsupportedLayerError as refusal:
        assert "aten." in str(refusal)  # noqa: PT017
        return
    with torch.no_grad():
        assert torch.allclose(graph(x), model(x), atol=1e-5)


# --- what a module's own check would have caught: nothing runs the program here --------------------------------


def unflatten_by_the_batch(s: Any, x: Tensor) -> Tensor:
    return s.l(functional.max_pool1d(x.unflatten(1, (3, -1)), 2).flatten(1))


def squeeze_the_batch(s: Any, x: Tensor) -> Tensor:
    y = x.squeeze(0)
    return s.l(torch.cat([y, -y], 1).view(1, -1))


def squeeze_everything(s: Any, x: Tensor) -> Tensor:
    return s.l(s.n(x.squeeze()).view(1, -1))


def round_down(s: Any, x: Tensor) -> Tensor:
    return torch.div(s.l(x), 0.5, rounding_mode="floor")


def divide_by_nothing(s: Any, x: Tensor) -> Tensor:
    return s.l(x) / 0


def write_into_another(s: Any, x: Tensor) -> Tensor:
    y = s.l(x)
    view = y.view(-1, 3)
    torch.mul(s.l(x), 2.0, out=y)
    return view + 0


def another_mean(s: Any, x: Tensor) -> Tensor:
    mean = functional.avg_pool2d(s.l(x).unsqueeze(1).unsqueeze(1).pow(2.0), (1, 3), divisor_override=7)
    pooled = (torch.sign(mean) * functional.relu(torch.abs(mean))).mul(3).pow(0.5)
    return torch.cat([pooled.flatten(1), s.l(x)], 1)


def the_batch_as_a_width(s: Any, x: Tensor) -> Tensor:
    return s.l(x).view(-1, x.size(0))


WRONG: list[tuple[Function, tuple[int, ...], bool, dict[str, nn.Module]]] = [
    (unflatten_by_the_batch, (3, 12), False, {"l": nn.Linear(6, 3)}),
    (squeeze_the_batch, (1, 4, 6), False, {"l": nn.Linear(48, 3)}),
    (squeeze_everything, (1, 4, 4), False, {"l": nn.Linear(16, 3), "n": nn.BatchNorm1d(4)}),
    (round_down, (2, 6), True, {"l": nn.Linear(6, 3)}),
    (divide_by_nothing, (2, 6), True, {"l": nn.Linear(6, 3)}),
    (write_into_another, (2, 6), True, {"l": nn.Linear(6, 3)}),
    (another_mean, (2, 6), True, {"l": nn.Linear(6, 3)}),
    (the_batch_as_a_width, (2, 6), True, {"l": nn.Linear(6, 2)}),
]


@pytest.mark.parametrize(("function", "shape", "dynamic", "parts"), WRONG, ids=[case[0].__name__ for case in WRONG])
def test_a_file_is_read_right_or_refused(
    tmp_path: Path, function: Function, shape: tuple[int, ...], dynamic: bool, parts: dict[str, nn.Module]
) -> None:
    torch.manual_seed(0)
    model = shaken(Wrap(function, **parts))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean = torch.arange(4.0)
    path = save(tmp_path / "net.pt2", model, torch.randn(*shape), dynamic=dynamic)
    try:
        graph = pb.from_pt2(path)
    except pb.PertboundError:
        return
    for batch in (1, 2, 5) if dynamic else shape[:1]:
        x = torch.randn(batch, *shape[1:])
        with torch.no_grad():
            expected = model(x)
        got = graph(x)
        assert got.shape == expected.shape
        assert torch.allclose(got, expected, atol=1e-4)


def test_unsupported_operators_are_named_with_their_place(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 3), nn.Sequential(nn.Softshrink()))
    with pytest.raises(pb.UnsupportedLayerError, match=r"aten\.softshrink.*1\.0 \(Softshrink\)"):
        pb.from_pt2(save(tmp_path / "net.pt2", model, torch.randn(2, 6)))


def test_weights_that_are_not_finite_are_refused_with_their_place(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        model[2].weight[1, 1] = float("nan")
    with pytest.raises(pb.UnsupportedLayerError, match=r"2 \(Linear\)"):
        pb.from_pt2(save(tmp_path / "net.pt2", model, torch.randn(2, 6)))


@pytest.mark.parametrize("classes", [0, 1])
def test_fewer_than_two_classes_are_refused(tmp_path: Path, classes: int) -> None:
    model = nn.Linear(6, 2)
    model.weight, model.bias = nn.Parameter(torch.rand(classes, 6)), nn.Parameter(torch.rand(classes))
    with pytest.raises(pb.ConversionError, match="at least 2 classes"):
        pb.from_pt2(save(tmp_path / "net.pt2", model, torch.randn(2, 6)))


def test_half_precision_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "net.pt2", nn.Linear(6, 3).half(), torch.randn(2, 6).half())
    with pytest.raises(pb.PertboundError, match="float16"):
        pb.from_pt2(path)


def test_absent_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(pb.ModelFileError, match="no such file"):
        pb.from_pt2(tmp_path / "absent.pt2")


# --- hostile numbers: only errors on purpose --------------------------------------------------------------------


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def pack(path: Path, contents: dict[str, bytes], document: Any) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (contents | {MODEL: json.dumps(document).encode()}).items():
            archive.writestr(f"net/{name}", data)
    return path


def slots(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a JSON document, as a container and a key into it."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from slots(node[key])


def use(path: Path) -> str:
    """What became of a file: a refusal on purpose, or a network that can be asked; else the test fails."""
    try:
        graph = pb.from_pt2(path)
        x = torch.randn(2, *graph.input_shape, generator=torch.Generator().manual_seed(0))
        assert graph(x).shape == (2, graph.classes)
    except pb.PertboundError as error:
        assert str(error)  # noqa: PT017
        return "refused"
    return "read"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mutation may ask for much memory."""
    monkeypatch.setattr(conversion, "LARGEST_SAMPLE", 2**20)


@pytest.mark.usefixtures("small")
def test_odd_numbers_in_the_calls_are_refused_or_used(saved: Path, tmp_path: Path) -> None:
    contents = entries(saved)
    rng = random.Random(0)
    outcomes: list[str] = []
    for _ in range(150):
        document = json.loads(contents[MODEL])
        places = [
            (where, key)
            for node in document["graph_module"]["graph"]["nodes"]
            for where, key in slots(node["inputs"])
            if isinstance(where[key], int | float)
        ]
        for where, key in rng.sample(places, rng.choice([1, 1, 2])):
            old = where[key]
            where[key] = (
                not old if isinstance(old, bool) else rng.choice(FLOATS if isinstance(old, float) else INTEGERS)
            )
        outcomes.append(use(pack(tmp_path / "net.pt2", contents, document)))
    assert 20 < outcomes.count("refused") < 150


@pytest.mark.usefixtures("small")
def test_odd_calls_are_refused_or_used(saved: Path, tmp_path: Path) -> None:
    """Arguments dropped or swapped, operators exchanged, values of other kinds."""
    contents = entries(saved)
    graph = json.loads(contents[MODEL])["graph_module"]["graph"]
    names = [node["outputs"][0]["as_tensor"]["name"] for node in graph["nodes"] if "as_tensor" in str(node["outputs"])]
    values: list[Any] = [{"as_int": n} for n in (0, 1, -1, 1 << 40)]
    values += [{"as_ints": [1, 2]}, {"as_float": 0.3}, {"as_none": True}, {"as_bool": True}, {"as_string": "floor"}]
    values += [{"as_tensor": {"name": name}} for name in (*names, "p_last_weight", "b_mean", "x")]
    rng = random.Random(1)
    for _ in range(150):
        document = json.loads(contents[MODEL])
        nodes = document["graph_module"]["graph"]["nodes"]
        node = rng.choice(nodes)
        kind = rng.randrange(4)
        if kind == 0:
            node["target"] = rng.choice(nodes)["target"]
        elif kind == 1 and node["inputs"]:
            node["inputs"].pop(rng.randrange(len(node["inputs"])))
        elif kind == 2 and node["inputs"]:
            rng.choice(node["inputs"])["arg"] = rng.choice(values)
        else:
            operator = node["target"].split(".")
            node["target"] = ".".join([*operator[:-2], operator[-2] + "_", operator[-1]])
        use(pack(tmp_path / "net.pt2", contents, document))


def test_softplus_far_below_its_threshold_is_certified_or_refused(tmp_path: Path) -> None:
    """exp(1000) is no float; whatever a model's threshold, nothing but an error on purpose may come of it."""
    model = nn.Sequential(nn.Linear(6, 4), nn.Softplus(threshold=-1000.0), nn.Linear(4, 3))
    try:
        graph = pb.from_pt2(save(tmp_path / "net.pt2", model, torch.randn(2, 6)))
    except pb.PertboundError:
        return
    assert bool((pb.certify(graph, torch.randn(2, 6), pb.Lipschitz()).radius >= 0).all())
