"""Reading exported files: what was saved comes back, and hostile files are refused without harm."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pertbound.errors import ConversionError, ModelFileError, PertboundError, UnsupportedLayerError
from pertbound.frontends.program import Call, Program, Ref
from pertbound.frontends.pt2 import read_pt2

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLES = "data/sample_inputs/model.pt"

pytestmark = pytest.mark.filterwarnings("ignore:No complete tensor", "ignore:.isinstance.treespec")

Edit = Callable[[Any], Any]


class Net(nn.Module):
    """A little of everything that is expected to work."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(12, 4)
        self.register_buffer("shift", torch.rand(1, 1, 6))
        self.register_buffer("scale", torch.rand(6, 1).expand(6, 6), persistent=False)
        self.constant = torch.rand(4, 2).t()[0]

    def forward(self, x: Tensor) -> Tensor:
        y = self.body((x - self.shift) * self.scale)
        return self.head(y.view(x.shape[0], -1)).clamp(min=-float("inf"), max=2.5) + self.constant


class Wrap(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *x: Tensor) -> Any:
        return self.function(*x)


def save(path: Path, model: nn.Module, *example: Tensor, batch: bool = False, **options: Any) -> Path:
    shapes = {"dynamic_shapes": ({0: torch.export.Dim("batch", min=2, max=64)},)} if batch else {}
    torch.export.save(torch.export.export(model, example, **shapes, **options), path)
    return path


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    model(torch.randn(8, 1, 6, 6))  # gives the batch norm its statistics
    return model.eval()


@pytest.fixture(scope="module")
def saved(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("saved") / "net.pt2", net, torch.randn(3, 1, 6, 6), batch=True)


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def pack(path: Path, contents: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(f"net/{name}", data)
    return path


def edited(source: Path, path: Path, name: str, edit: Edit) -> Path:
    """A copy in which the JSON entry `name` was edited in place by `edit`."""
    contents = entries(source)
    document = json.loads(contents[name])
    edit(document)
    return pack(path, contents | {name: json.dumps(document).encode()})


def call(program: Program, target: str) -> Call:
    (found,) = [each for each in program.calls if each.target == target]
    return found


def bitwise_equal(one: Tensor, other: Tensor) -> bool:
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and one.contiguous().numpy().tobytes() == other.detach().contiguous().numpy().tobytes()


# --- what is saved comes back -----------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("strict", [True, False])
def test_all_tensors_come_back_bit_by_bit(net: Net, tmp_path: Path, batch: bool, strict: bool) -> None:
    example = torch.randn(3, 1, 6, 6)
    program = read_pt2(save(tmp_path / "net.pt2", net, example, batch=batch, strict=strict))
    expected = dict(net.state_dict()) | {"scale": net.scale, "constant": net.constant}
    found = {name.split("_", 1)[1]: tensor for name, tensor in program.tensors.items()}
    if strict:  # unused buffers are left out
        expected.pop("body.1.num_batches_tracked")
        found.pop("body_1_num_batches_tracked", None)
    assert len(found) == len(expected)
    for name, tensor in expected.items():
        assert bitwise_equal(found[name.replace(".", "_")], tensor), name
    assert not any(tensor.requires_grad for tensor in program.tensors.values())
    assert program.input_shape == (3, 1, 6, 6)
    assert program.input == "x"


def test_calls_have_named_arguments_and_places(saved: Path) -> None:
    program = read_pt2(saved)
    convolution = call(program, "aten.conv2d.default")
    assert convolution.arguments["weight"] == Ref("p_body_0_weight")
    assert convolution.where == "body.0 (Conv2d)"
    norm = call(program, "aten.batch_norm.default")
    assert norm.arguments["training"] is False
    assert norm.arguments["eps"] == pytest.approx(1e-5)
    pool = call(program, "aten.max_pool2d.default")
    assert pool.arguments == {"self": Ref("relu"), "kernel_size": [2, 2], "stride": [2, 2]}
    clamp = call(program, "aten.clamp.default")
    assert clamp.arguments["min"] == -float("inf")
    assert clamp.where.startswith("test_pt2.py, line ")
    assert program.output == program.calls[-1].name


def test_a_dynamic_batch_is_a_reference_to_the_call_that_takes_its_size(saved: Path) -> None:
    program = read_pt2(saved)
    size = call(program, "aten.sym_size.int")
    assert size.arguments == {"self": Ref("x"), "dim": 0}
    assert call(program, "aten.view.default").arguments["size"] == [Ref(size.name), -1]


def test_a_dynamic_batch_without_hint_counts_as_two(saved: Path, tmp_path: Path) -> None:
    def forget(model: Any) -> None:
        model["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["hint"] = None

    assert read_pt2(edited(saved, tmp_path / "net.pt2", MODEL, forget)).input_shape == (2, 1, 6, 6)


def test_shared_and_transposed_weights(tmp_path: Path) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.rand(3, 4).t())
            self.second = nn.Parameter(self.first.data[1:].t())
            self.third = nn.Parameter(torch.empty(0))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.first @ self.second + self.third.sum()

    model = Shared()
    tensors = read_pt2(save(tmp_path / "net.pt2", model, torch.rand(2, 4))).tensors
    assert bitwise_equal(tensors["p_first"], model.first)
    assert bitwise_equal(tensors["p_second"], model.second)
    assert tensors["p_third"].shape == (0,)
    storages = {tensors[name].untyped_storage().data_ptr() for name in ("p_first", "p_second")}
    assert len(storages) == 1


def test_types_and_devices_become_strings(tmp_path: Path) -> None:
    model = Wrap(lambda x: x.to(torch.float64).clone(memory_format=torch.contiguous_format))
    program = read_pt2(save(tmp_path / "net.pt2", model, torch.rand(2, 4)))
    assert call(program, "aten.to.dtype").arguments["dtype"] == "torch.float64"
    assert call(program, "aten.clone.default").arguments["memory_format"] == "torch.contiguous_format"
    check = call(program, "aten._assert_tensor_metadata.default")
    assert (check.arguments["device"], check.arguments["layout"]) == ("cpu", "torch.strided")


def test_integer_and_half_weights(tmp_path: Path) -> None:
    kinds = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
    kinds += [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    model = nn.Module()
    for i, kind in enumerate(kinds):
        model.register_buffer(f"b{i}", torch.arange(5).to(kind))
    model.forward = lambda x: x + sum(model.get_buffer(f"b{i}").float() for i in range(len(kinds)))
    tensors = read_pt2(save(tmp_path / "net.pt2", model, torch.rand(2, 5))).tensors
    for i, kind in enumerate(kinds):
        assert torch.equal(tensors[f"b_b{i}"], torch.arange(5).to(kind))


# --- models that are no function of one tensor --------------------------------------------------------------


def two(a: Tensor, b: Tensor) -> Tensor:
    return a + b


def without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 2


@pytest.mark.parametrize(
    ("function", "example", "error", "message"),
    [
        (two, [torch.rand(2, 3), torch.rand(2, 3)], ConversionError, "2 tensors"),
        (lambda x: (x, x * 2), [torch.rand(2, 3)], ConversionError, "expected one tensor"),
        (lambda x: x * 2, [torch.arange(4)], ConversionError, "integers"),
        (lambda x: x * 2, [torch.tensor(1.0)], ConversionError, "expected a batch"),
        (lambda x: x.add_(1), [torch.rand(2, 3)], ConversionError, "changes stored values or the input"),
        (without_gradient, [torch.rand(2, 3)], UnsupportedLayerError, "torch.no_grad"),
        (lambda x: (x * 1j).real, [torch.rand(2, 3)], UnsupportedLayerError, "as_complex"),
        (lambda x: x + torch.tensor([True]), [torch.rand(2, 3)], ConversionError, "dtype number 12"),
    ],
)
def test_other_programs_are_refused(
    tmp_path: Path, function: Any, example: list[Tensor], error: type[Exception], message: str
) -> None:
    path = save(tmp_path / "net.pt2", Wrap(function), *example)
    with pytest.raises(error, match=message):
        read_pt2(path)


@pytest.mark.parametrize("decompose", [True, False])
def test_training_mode_is_refused(tmp_path: Path, decompose: bool) -> None:
    program = torch.export.export(nn.Sequential(nn.BatchNorm1d(3)).train(), (torch.rand(4, 3),))
    torch.export.save(program.run_decompositions() if decompose else program, tmp_path / "net.pt2")
    with pytest.raises(ConversionError, match=r"\.eval\(\)"):
        read_pt2(tmp_path / "net.pt2")


def test_a_dynamic_image_size_is_refused(tmp_path: Path) -> None:
    shapes = ({1: torch.export.Dim("width", min=2, max=9)},)
    program = torch.export.export(Wrap(lambda x: x * 2), (torch.rand(2, 4),), dynamic_shapes=(shapes,))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(ConversionError, match="dimension 1 is dynamic"):
        read_pt2(tmp_path / "net.pt2")


@pytest.mark.parametrize(
    "target",
    ["_operator.getitem", "torch.ops.aten.relu", "os.system", "torch.ops.aten.relu.default.x", "", "é.é"],
)
def test_targets_that_are_no_operators_are_refused(saved: Path, tmp_path: Path, target: str) -> None:
    def rename(model: Any) -> None:
        model["graph_module"]["graph"]["nodes"][-1]["target"] = target

    with pytest.raises(UnsupportedLayerError, match="no plain operator"):
        read_pt2(edited(saved, tmp_path / "net.pt2", MODEL, rename))


# --- hostile files: nothing is executed ---------------------------------------------------------------------


class Bomb:
    """Touches a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def pickled_weight(saved: Path, path: Path, marker: Path) -> Path:
    contents = entries(saved)
    config = json.loads(contents[WEIGHTS])
    entry = config["config"]["head.bias"]
    entry["use_pickle"] = True
    buffer = io.BytesIO()
    torch.save(Bomb(marker), buffer)
    planted = {WEIGHTS: json.dumps(config).encode(), f"data/weights/{entry['path_name']}": buffer.getvalue()}
    return pack(path, contents | planted)


def pickled_sample(saved: Path, path: Path, marker: Path) -> Path:
    buffer = io.BytesIO()
    torch.save(Bomb(marker), buffer)
    return pack(path, entries(saved) | {SAMPLES: buffer.getvalue()})


def pickled_object(saved: Path, path: Path, marker: Path) -> Path:
    contents = entries(saved)
    config = json.loads(contents[CONSTANTS])
    config["config"]["constant"] = {
        **{"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    }
    planted = {
        CONSTANTS: json.dumps(config).encode(),
        "data/constants/opaque_obj_0": pickle.dumps(Bomb(marker)),
    }
    return pack(path, contents | planted)


def python_in_a_size(saved: Path, path: Path, marker: Path) -> Path:
    def plant(model: Any) -> None:
        sizes = model["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = f"__import__('pathlib').Path({str(marker)!r}).touch() or 3"

    return edited(saved, path, MODEL, plant)


def python_in_a_guard(saved: Path, path: Path, marker: Path) -> Path:
    def plant(model: Any) -> None:
        guard = f"__import__('pathlib').Path({str(marker)!r}).touch() is None"
        model["guards_code"] = [guard]

    return edited(saved, path, MODEL, plant)


ATTACKS = [pickled_weight, pickled_sample, pickled_object, python_in_a_size, python_in_a_guard]


@pytest.mark.parametrize("attack", ATTACKS)
def test_planted_code_does_not_run(saved: Path, tmp_path: Path, attack: Any) -> None:
    path = attack(saved, tmp_path / "net.pt2", tmp_path / "marker")
    if attack in (pickled_weight, pickled_object):
        with pytest.raises(ModelFileError, match=r"is a pickle.*from_torch"):
            read_pt2(path)
    else:
        assert read_pt2(path).input_shape == (3, 1, 6, 6)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_same_planted_code_runs_under_torch_export_load(saved: Path, tmp_path: Path, attack: Any) -> None:
    path = attack(saved, tmp_path / "net.pt2", tmp_path / "marker")
    with contextlib.suppress(Exception):
        torch.export.load(path).module()(torch.rand(3, 1, 6, 6))
    assert (tmp_path / "marker").exists()


def test_compiled_code_is_refused(saved: Path, tmp_path: Path) -> None:
    path = pack(tmp_path / "net.pt2", entries(saved) | {"data/aotinductor/model/code.so": b"\x7fELF"})
    with pytest.raises(ModelFileError, match="compiled code"):
        read_pt2(path)


def test_extra_files_are_ignored(saved: Path, tmp_path: Path) -> None:
    path = pack(tmp_path / "net.pt2", entries(saved) | {"extra/notes.txt": b"hello", "extra/a.pkl": b"cos\nsystem"})
    assert read_pt2(path) is not None


# --- hostile files: tensors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("storage_offset", {"as_int": 1}),
        ("storage_offset", {"as_int": -1}),
        ("storage_offset", {"as_int": 1 << 62}),
        ("storage_offset", {"as_int": 1 << 80}),
        ("storage_offset", {"as_expr": {"expr_str": "s0", "hint": None}}),
        ("storage_offset", {"as_int": True}),
        ("sizes", [{"as_int": 4}, {"as_int": 13}]),
        ("sizes", [{"as_int": 1 << 40}, {"as_int": 12}]),
        ("sizes", [{"as_int": -4}, {"as_int": -12}]),
        ("sizes", [{"as_int": 4}]),
        ("sizes", []),
        ("sizes", None),
        ("strides", [{"as_int": 13}, {"as_int": 1}]),
        ("strides", [{"as_int": 12}, {"as_int": -1}]),
        ("strides", [{"as_int": 12}, {"as_int": 1 << 63}]),
        ("strides", [{"as_int": 12.0}, {"as_int": 1}]),
        ("dtype", 8),
        ("dtype", 99),
        ("dtype", "7"),
        ("layout", 1),
        ("device", {"type": "cuda", "index": 0}),
    ],
)
def test_tensors_beyond_their_payload_are_refused(saved: Path, tmp_path: Path, key: str, value: Any) -> None:
    def plant(config: Any) -> None:
        config["config"]["head.weight"]["tensor_meta"][key] = value

    with pytest.raises((ModelFileError, ConversionError)):
        read_pt2(edited(saved, tmp_path / "net.pt2", WEIGHTS, plant))


@pytest.mark.parametrize("size", [1 << 20, 1 << 31, 1 << 62])
@pytest.mark.parametrize("empty", [True, False])
def test_a_few_bytes_do_not_become_a_huge_tensor(saved: Path, tmp_path: Path, size: int, empty: bool) -> None:
    def plant(config: Any) -> None:
        sizes = [0, size, size] if empty else [size, size]
        meta = config["config"]["head.weight"]["tensor_meta"]
        meta["sizes"] = [{"as_int": each} for each in sizes]
        meta["strides"] = [{"as_int": 0} for _ in sizes]

    with pytest.raises(ModelFileError):
        read_pt2(edited(saved, tmp_path / "net.pt2", WEIGHTS, plant))


def test_a_missing_payload_is_refused(saved: Path, tmp_path: Path) -> None:
    contents = entries(saved)
    del contents["data/weights/weight_0"]
    with pytest.raises(ModelFileError, match="no entry 'data/weights/weight_0'"):
        read_pt2(pack(tmp_path / "net.pt2", contents))


def test_payload_names_do_not_leave_the_archive(saved: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(16))

    def plant(config: Any) -> None:
        config["config"]["head.bias"]["path_name"] = str(secret)

    with pytest.raises(ModelFileError, match="no entry"):
        read_pt2(edited(saved, tmp_path / "net.pt2", WEIGHTS, plant))


# --- hostile files: archives --------------------------------------------------------------------------------


def test_a_zip_bomb_is_refused(saved: Path, tmp_path: Path) -> None:
    bomb = {"data/weights/weight_0": bytes(50 << 20)}
    path = pack(tmp_path / "net.pt2", entries(saved) | bomb, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ModelFileError, match="compressed"):
        read_pt2(path)


def test_sizes_that_the_file_cannot_hold_are_refused(saved: Path, tmp_path: Path) -> None:
    data = bytearray(pack(tmp_path / "net.pt2", entries(saved)).read_bytes())
    record = data.rindex(b"net/data/weights/weight_0") - 46  # its record in the zip's directory
    data[record + 20 : record + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    (tmp_path / "net.pt2").write_bytes(data)
    with pytest.raises(ModelFileError, match="claim"):
        read_pt2(tmp_path / "net.pt2")


def test_a_huge_zip_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    size = 1 << 30
    with path.open("wb") as file:  # a sparse file with an end record that claims it all as directory
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, size, 0, 0))
    with pytest.raises(ModelFileError, match="zip directory"):
        read_pt2(path)


def test_too_many_entries_are_refused(saved: Path, tmp_path: Path) -> None:
    extra = {f"extra/{i}": b"" for i in range(10_000)}
    with pytest.raises(ModelFileError, match="zip entries"):
        read_pt2(pack(tmp_path / "net.pt2", entries(saved) | extra))


def test_a_huge_description_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="bytes"):
        read_pt2(pack(tmp_path / "net.pt2", entries(saved) | {MODEL: b"[" * (17 << 20)}))


@pytest.mark.parametrize(
    "text", [b"", b"[" * 100_000, b"null", b"[]", b'{"a":', b"\xff\xfe", b"9" * 100_000, b'"\\ud800"', b"{}"]
)
@pytest.mark.parametrize("name", [MODEL, WEIGHTS])
def test_descriptions_that_are_nothing_of_the_kind(saved: Path, tmp_path: Path, name: str, text: bytes) -> None:
    with pytest.raises(ModelFileError):
        read_pt2(pack(tmp_path / "net.pt2", entries(saved) | {name: text}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models/other.json": b"{}"}, "2 models"),
        ({MODEL: None}, "0 models"),
        ({"archive_version": b"1"}, "archive_version '1', expected '0'"),
        ({"archive_format": b"pt3"}, "archive_format"),
        ({"archive_format": None}, "archive_format"),
        ({"byteorder": b"big"}, "byteorder"),
        ({WEIGHTS: None}, "no entry"),
    ],
)
def test_archives_of_another_kind(saved: Path, tmp_path: Path, change: dict[str, bytes | None], message: str) -> None:
    contents = {name: data for name, data in (entries(saved) | change).items() if data is not None}
    with pytest.raises(ModelFileError, match=message):
        read_pt2(pack(tmp_path / "net.pt2", contents))


def test_a_schema_of_another_version_is_refused(saved: Path, tmp_path: Path) -> None:
    path = edited(saved, tmp_path / "net.pt2", MODEL, lambda model: model["schema_version"].update(major=9))
    with pytest.raises(ModelFileError, match="expected major 8"):
        read_pt2(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(saved: Path, tmp_path: Path) -> None:
    path = pack(tmp_path / "net.pt2", entries(saved))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"net/{MODEL}", b"{}")
    with pytest.raises(ModelFileError, match="distinct names"):
        read_pt2(path)


def test_files_of_other_kinds(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.pt2").touch()
    (tmp_path / "text.pt2").write_text("no zip")
    (tmp_path / "tail.pt2").write_bytes(saved.read_bytes()[1000:])
    torch.save({"a": torch.rand(3)}, tmp_path / "state.pt2")
    with zipfile.ZipFile(tmp_path / "no_entries.pt2", "w"):
        pass
    files = ["empty.pt2", "text.pt2", "tail.pt2", "state.pt2", "no_entries.pt2", "missing.pt2", "."]
    for name in files:
        with pytest.raises(ModelFileError, match=r".+"):
            read_pt2(tmp_path / name)
    with pytest.raises(ModelFileError, match="no such file"):
        read_pt2(tmp_path / "missing.pt2")


# --- random damage ------------------------------------------------------------------------------------------


def read_or_refuse(path: Path) -> bool:
    """Whether the file was read; anything but a refusal on purpose fails the test."""
    try:
        read_pt2(path)
    except PertboundError as error:
        assert str(path) in str(error)  # noqa: PT017
        return False
    return True


def test_truncated_files_are_refused(saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    path = tmp_path / "net.pt2"
    for length in {*range(0, len(data), max(1, len(data) // 150)), *range(len(data) - 100, len(data), 7)}:
        path.write_bytes(data[:length])
        assert not read_or_refuse(path), length


def test_flipped_bytes_never_escape(saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    path = tmp_path / "net.pt2"
    rng = random.Random(0)
    directory = data.index(b"PK\1\2")  # every other round damages the zip's directory
    for round_ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 1, 4])):
            place = rng.randrange(directory if round_ % 2 else 0, len(data))
            damaged[place] ^= rng.randrange(1, 256)
        path.write_bytes(damaged)
        read_or_refuse(path)


ODD: list[Any] = [None, True, -1, 0, 1 << 40, 1 << 62, 1 << 70, 1.5, float("nan"), [], {}, [[]]]
ODD += ["", "x", "\ud800", "\x1b[31m", {"as_int": -1}, {"as_name": "nobody"}, {"as_tensor": {"name": "x"}}]


def slots(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a JSON document, as a container and a key into it."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from slots(node[key])


@pytest.mark.parametrize("name", [MODEL, WEIGHTS, CONSTANTS])
def test_odd_values_in_the_descriptions_never_escape(saved: Path, tmp_path: Path, name: str) -> None:
    contents = entries(saved)
    rng = random.Random(1)
    survivors = 0
    for _ in range(300):
        document = json.loads(contents[name])
        where, key = rng.choice(list(slots(document)))
        if rng.random() < 0.3:
            del where[key]
        else:
            where[key] = rng.choice(ODD)
        path = pack(tmp_path / "net.pt2", contents | {name: json.dumps(document).encode()})
        survivors += read_or_refuse(path)
    assert survivors < 300
