"""`pertbound verify`: its answers, its exit codes, the counterexample's file; and `--model FILE.onnx`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from oracles.onnx_models import mlp, model, node, weights, written

DECLARED = "".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "X_2", "X_3", "Y_0", "Y_1", "Y_2"))


@pytest.fixture
def asked(tmp_path: Path) -> tuple[Path, Path]:
    """A network, and a property's path: all inputs in [-1, 1], and Y_0 >= 1000 a counterexample."""
    path = tmp_path / "property.vnnlib"
    bounds = "".join(f"(assert (and (<= X_{i} 1)(>= X_{i} -1)))" for i in range(4))
    path.write_text(DECLARED + bounds + "(assert (>= Y_0 1000))")
    return written(mlp(), tmp_path), path


def test_answers_and_exit_codes(cli, asked: tuple[Path, Path], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    network, claim = asked
    done = cli("verify", network, claim)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("holds (linear")
    claim.write_text(claim.read_text().replace("1000", "-1000"))
    done = cli("verify", network, claim, "--timeout", 10)
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0].startswith("violated (search; ")
    assert lines[1].startswith("((X_0 ")
    assert lines[-1].startswith(" (Y_2 ")
    assert lines[-1].endswith("))")
    file = tmp_path / "counterexample.txt"
    done = cli("verify", network, claim, "--witness", file)
    assert (done.code, done.out.splitlines()[1]) == (1, f"Counterexample: {file}")
    assert file.read_text().splitlines() == lines[1:]
    done = cli("verify", network, claim, "--timeout", 1e-9)
    assert done.code == 3
    assert done.out.startswith("unknown (the property was not read to its end within the 1e-09 seconds")


def test_bad_input_is_refused(cli, asked: tuple[Path, Path], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    network, claim = asked
    (tmp_path / "bad.vnnlib").write_text("(assert (<= X_0 1))")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    for arguments, message in (
        ((network, tmp_path / "bad.vnnlib"), "PropertyError"),
        ((network, tmp_path / "absent.vnnlib"), "no such file"),
        ((tmp_path / "bad.onnx", claim), "ModelFileError"),
        ((tmp_path / "absent.onnx", claim), "no model file"),
        ((network, claim, "--timeout", "0"), "time limit"),
        ((network, claim, "--witness", tmp_path / "no" / "folder"), "cannot write"),
        ((network,), "PROPERTY"),
        ((claim, network), "neither .safetensors"),
    ):
        if "cannot write" in message:
            claim.write_text(claim.read_text().replace("1000", "-1000"))
        done = cli("verify", *arguments)
        assert done.code == 2
        assert message in done.err
        claim.write_text(claim.read_text().replace("-1000", "1000"))


@pytest.mark.parametrize(("limit", "answer", "code"), [("-1000", "violated", 1), ("1000", "holds", 0)])
def test_answers_for_scripts(cli, tmp_path: Path, limit: str, answer: str, code: int) -> None:  # type: ignore[no-untyped-def]
    network = written(mlp("N"), tmp_path)
    claim = tmp_path / "claim.vnnlib"
    inputs = "".join(f"(declare-const X_{i} Real) (assert (<= X_{i} 1)) (assert (>= X_{i} -1)) " for i in range(4))
    outputs = "".join(f"(declare-const Y_{i} Real) " for i in range(3))
    claim.write_text(f"{inputs}{outputs}(assert (>= Y_0 {limit}))")
    done = cli("verify", network, claim, "--json")
    assert done.code == code
    found = json.loads(done.out)
    assert found["answer"] == answer
    assert (found["counterexample"] is None) == (answer == "holds")
    assert cli("verify", network, claim, "--json", "--witness", tmp_path / "witness").code == code
    assert (tmp_path / "witness").exists() == (answer == "violated")


def test_onnx_files_are_models_like_others(cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    network = written(mlp("N"), tmp_path)
    np.savez(tmp_path / "data.npz", x=weights(5, 2, 2), y=np.zeros(5, np.int64))
    for command in ("certify", "attack", "bracket"):
        done = cli(command, "--model", network, "--data", tmp_path / "data.npz", "--out", tmp_path / command)
        assert done.code == 0, done.err
    done = cli("certify", "--model", network, "--architecture", "mlp", "--data", tmp_path / "data.npz")
    assert done.code == 2
    assert "holds its own graph" in done.err
    tan = written(model([node("Tan", "x", "y")], (1, 4)), tmp_path, "tan.onnx")
    done = cli("certify", "--model", tan, "--data", tmp_path / "data.npz")
    assert done.code == 2
    assert "node 'the tan' (Tan)" in done.err


def test_the_time_limit_covers_reading(cli, asked: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """A clock that leaps an hour once so many parentheses are read: the answer is unknown, not an error."""
    network, claim = asked
    from pertbound.frontends import watch

    looks = [0]

    def leaping() -> float:
        looks[0] += 1
        return 3600.0 * (looks[0] > 20)

    monkeypatch.setattr(watch.time, "monotonic", leaping)
    done = cli("verify", network, claim, "--timeout", 60, "--json")
    assert done.code == 3, done
    assert json.loads(done.out)["answer"] == "unknown"
    assert looks[0] < 40, "reading ended at once"
