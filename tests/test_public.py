"""The public surface: its names, their documentation, and what importing it does not do."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

import pertbound as pb

NAMES = [
    "Answer", "Attack", "Auto", "Ball", "Bracket", "BranchAndBound", "CarliniWagner", "Certificate", "Certified",
    "Comparison", "ContradictionError", "ConversionError", "Counterexample", "CurvatureFree", "DDN", "DataError",
    "DataSet", "DeepFool", "Ensemble", "Estimate", "Estimator", "FMN", "FastGradientSign", "FoolboxAttack", "Graph",
    "Guarantee", "InputError", "Interval", "LBFGS", "LayerFactors", "LayerLosses", "LinearRelaxation", "Lipschitz",
    "ModelFileError", "PGD", "PertboundError", "Property", "PropertyError", "Published", "QuadraticRelaxation",
    "RunError", "Softened", "UnsupportedLayerError", "Verdict", "Witness", "attack", "bracket", "certify", "compare",
    "from_onnx", "from_pt2", "from_torch", "layer_factors", "layer_losses", "preprocessed", "read_vnnlib", "verify",
]  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert pb.__all__ == NAMES
    assert pb.__all__ == sorted(pb.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    thing = getattr(pb, name)
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        for member, value in vars(thing).items():
            if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{name}.{member}"
    else:
        signature = inspect.signature(thing)
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


def test_the_package_documents_itself() -> None:
    assert "how small" in (pb.__doc__ or "")


def test_every_error_is_caught_by_the_base() -> None:
    errors = [getattr(pb, name) for name in NAMES if name.endswith("Error")]
    assert all(issubclass(error, pb.PertboundError) for error in errors)
    assert issubclass(pb.UnsupportedLayerError, pb.ConversionError)
    assert not issubclass(pb.PertboundError, ValueError | RuntimeError)


def test_guarantees_and_estimates_are_of_different_kinds() -> None:
    assert not issubclass(pb.Estimate, pb.Certified)
    assert not issubclass(pb.Certified, pb.Estimate)
    assert not issubclass(pb.Published, pb.Certificate)
    assert issubclass(pb.Lipschitz, pb.Certificate)
    assert not issubclass(pb.FastGradientSign, pb.Certificate | pb.Estimator)


SCRIPT = """
import json, logging, random, sys, warnings
import numpy, torch
def state():
    return {
        "dtype": str(torch.get_default_dtype()), "threads": torch.get_num_threads(), "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(), "rng": torch.get_rng_state().tolist()[:64],
        "numpy": numpy.random.get_state()[1].tolist()[:32], "python": list(random.getstate()[1][:32]),
        "precision": torch.get_float32_matmul_precision(), "handlers": len(logging.getLogger().handlers),
        "filters": len(warnings.filters), "hook": sys.excepthook is sys.__excepthook__, "path": sys.path,
        "tf32": torch.backends.cuda.matmul.allow_tf32, "print": torch._tensor_str.PRINT_OPTS.precision,
        "recursion": sys.getrecursionlimit(), "errors": str(numpy.geterr()),
    }
before = state()
import pertbound
after = state()
print(json.dumps({"changed": {k: [before[k], after[k]] for k in before if before[k] != after[k]},
                  "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return json.loads(done.stdout.splitlines()[-1]) | {"printed": done.stdout.splitlines()[:-1]}


def test_importing_changes_nothing_global(imported: dict[str, object]) -> None:
    assert imported["changed"] == {}
    assert imported["printed"] == []


@pytest.mark.parametrize(
    "module",
    [
        "typer",
        "click",
        "rich",
        "matplotlib",
        "sklearn",
        "scipy",
        "pyarrow",
        "jinja2",
        "pandas",
        "safetensors",
        "onnx",
        "onnxruntime",
    ],
)
def test_importing_does_not_load_what_only_the_commands_need(imported: dict[str, object], module: str) -> None:
    modules = imported["modules"]
    assert isinstance(modules, list)
    assert module not in modules
