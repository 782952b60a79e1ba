"""No crash ends with the code of a verdict: an error raised in each stage of each command, and how it is told."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import pytest
import typer

import pertbound as pb
from oracles.onnx_models import mlp, written
from pertbound import records, store
from pertbound.certificates import Certificate
from pertbound.cli import main
from pertbound.problem import Certified, Problem
from pertbound.records import CERTIFIED, WITNESS, Run
from pertbound_entry import ExitCode

VERIFY = (
    "cli.verifying.read_network", "cli.verifying.read_vnnlib", "verification.verdict.question",
    "verification.verdict.Falsifier.round", "verification.falsify.confirmed", "verification.witness.Fraction",
    "cli.verifying.write_whole", "cli.verifying.console", "cli.verifying._said", "cli.verifying._give",
)  # fmt: skip
BOUND = (
    "verification.verdict.Branches.begin", "verification.boxes.Rest.of", "verification.branches.ahead",
)  # fmt: skip
ASKING = (
    "experiments.job.read_network", "experiments.job.read_data", "experiments.job.fitting_batch",
    "cli.running.about_run", "cli.running.store.writing", "experiments.work.rows_of", "cli.running.store.Writer.put",
    "cli.running.store.read", "cli.running.print_summary", "cli.running.progress", "cli.running.console",
)  # fmt: skip
CERTIFYING = ("push.Push.summarise", "certificates.lipschitz._View", "cli.running.by_layer", "store.write_layers")
ATTACKING = ("attacks.ddn.DDN.candidates", "attacks.base.confirmed", "experiments.work._nearest")
STAGES: dict[str, tuple[str, ...]] = {
    "verify": VERIFY,
    "verify holds": BOUND,
    "certify": (*ASKING, *CERTIFYING),
    "attack": (*ASKING, *ATTACKING),
    "bracket": (*ASKING, *CERTIFYING, *ATTACKING),
    "demo": ("cli.studies.run_demo", "cli.studies.command_line", "cli.studies.require_free"),
    "reproduce": ("cli.studies.load", "cli.studies.require_free"),
    "report": ("report.files.read", "report.html.view", "cli.reporting.write_files", "cli.reporting.console"),
    "compare": (
        "cli.comparing.compare_runs",
        "cli.comparing.sentences",
        "comparison.subjects.brackets",
        "cli.comparing.console",
    ),
    "query": ("cli.keeping.store.read", "cli.keeping.asked", "cli.keeping.console"),
    "check": ("cli.keeping.check_run", "cli.keeping.progress"),
}
"""What is asked, and functions that it calls on the way: to read, convert, bound, search, write and print."""

COMPUTING = ("certify", "attack", "bracket")
"""Commands whose stages take seconds in all."""


def _run(lower: float = 0.5, name: str = "m") -> Run:
    """A run of one sample with a certificate at `lower` and a witness at 0.7."""
    columns = {
        "sample": [0, 0], "label": [1, 1], "reference": [1, 1], "predicted": [1, 1], "method": ["proof", "search"],
        "guarantee": [CERTIFIED, WITNESS], "l2": [lower, 0.7], "seconds": [0.1, 0.1],
    }  # fmt: skip
    about = {"title": "small", "model": {"name": name, "sha256": name}, "data": {"name": "d", "sha256": "77ab"}}
    return Run(records.table(columns), about | {"guarantee": "L2 over all of R^d"})


@pytest.fixture
def asked(files: Path, tmp_path: Path) -> Callable[[str], list[object]]:
    """The arguments of each command; all of them are done without an error."""
    bounds = "".join(f"(declare-const X_{i} Real)(assert (<= X_{i} 1))(assert (>= X_{i} -1))" for i in range(4))
    outputs = "".join(f"(declare-const Y_{i} Real)" for i in range(3))
    for name, limit in (("violated", -1000), ("holds", 1000)):
        (tmp_path / f"{name}.vnnlib").write_text(f"{bounds}{outputs}(assert (>= Y_0 {limit}))")
    network = written(mlp(), tmp_path)
    store.write(tmp_path / "one", _run())
    store.write(tmp_path / "other", _run(0.6, "n"))
    asking = ["--model", files / "digits.safetensors", "--architecture", "digits", "--data", "digits", "--limit", 2]
    table: dict[str, list[object]] = {
        "verify": [network, tmp_path / "violated.vnnlib", "--witness", tmp_path / "counterexample"],
        "verify holds": [network, tmp_path / "holds.vnnlib"],
        "certify": [*asking, "--layer-loss", 1],
        "attack": asking,
        "bracket": [*asking, "--attack", "ddn", "--layer-loss", 1],
        "demo": [],
        "reproduce": ["peck2017", "--dataset", "mnist"],
        "report": [tmp_path / "one"],
        "compare": [tmp_path / "one", tmp_path / "other"],
        "query": [tmp_path / "one", "SELECT 1"],
        "check": [tmp_path / "one"],
    }
    return lambda command: [command.split()[0], *table[command]]


def _raises(error: BaseException) -> Callable[..., Any]:
    def raising(*_: object, **__: object) -> Any:
        raise error

    return raising


@pytest.mark.parametrize(
    ("command", "stage"),
    [
        pytest.param(c, stage, marks=[pytest.mark.slow] if c in COMPUTING else [])
        for c, stages in STAGES.items()
        for stage in stages
    ],
)
def test_no_crash_is_a_verdict(
    cli: Any, asked: Callable[[str], list[object]], monkeypatch: pytest.MonkeyPatch, command: str, stage: str
) -> None:
    monkeypatch.setattr(f"pertbound.{stage}", _raises(ValueError("unlucky\n\x1b[31mnumber")))
    done = cli(*asked(command))
    assert done.code == ExitCode.CRASHED, (done.out, done.err)
    first, second = done.err.splitlines()
    assert first == "error: unexpected ValueError: unlucky [31mnumber"
    assert second == "This is a bug in pertbound: run again with --debug, and report what is printed."


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (MemoryError(), 70, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 70, "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device"), 70, "The disk is full"),
        (OSError(errno.EIO, "Input/output error"), 70, "This is a bug"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), 70, "This is a bug"),
        (RecursionError("deep"), 70, "This is a bug"),
        (EOFError(), 70, "This is a bug"),
        (typer.Abort(), 70, "This is a bug"),
        (SystemExit(0), 70, "This is a bug"),
        (SystemExit(1), 70, "This is a bug"),
        (SystemExit(3), 70, "This is a bug"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (KeyboardInterrupt(), 130, "interrupted"),
        (pb.InputError("too long"), 2, "InputError: too long"),
        (pb.ContradictionError("a", "b", 1, 2.0, 1.0), 4, "sample 1: a proves"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_error_has_its_code(
    cli: Any, asked: Callable[[str], list[object]], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int,
    told: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("pertbound.cli.verifying.ask", _raises(error))
    done = cli(*asked("verify"))
    assert (done.code, done.out) == (code, "")
    assert told in done.err
    assert len(done.err.splitlines()) <= (3 if code == 4 else 2)


def test_tracebacks_are_for_those_who_ask(
    cli: Any, asked: Callable[[str], list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pertbound.cli.verifying.ask", _raises(ValueError("unlucky")))
    for arguments in (["--debug", *asked("verify")], [*asked("verify"), "--debug"]):
        done = cli(*arguments)
        assert done.code == ExitCode.CRASHED
        assert "Traceback" in done.err
        assert done.err.splitlines()[-2] == "error: unexpected ValueError: unlucky"
    assert "--debug" in cli("--help").out
    assert main._without_debug(["a", "--", "--debug"]) == (["a", "--", "--debug"], False)
    assert cli("verify", "--debugging").code == 2


@pytest.mark.parametrize("broken", ["code", "quiet"])
def test_broken_entries_are_caught(
    broken: str, cli: Any, asked: Callable[[str], list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that ends a crash with 1, and one that says nothing."""
    if broken == "code":
        monkeypatch.setattr(main, "_code_of", lambda _error: 1)
    else:
        monkeypatch.setattr(main, "_tell", lambda *_: None)
    with pytest.raises((AssertionError, ValueError)):
        test_no_crash_is_a_verdict(cli, asked, monkeypatch, "verify", VERIFY[0])


def test_codes_are_told_apart() -> None:
    assert len({*ExitCode}) == len(ExitCode)
    assert {ExitCode.CRASHED, ExitCode.INTERRUPTED, ExitCode.BROKEN_PIPE}.isdisjoint({0, 1, 2, 3, 4})


# --- contradictions ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stored_contradictions_are_told(cli: Any, tmp_path: Path) -> None:
    """A row above a witness, as only a bug or another's file can have it."""
    wrong = tmp_path / "wrong"
    store.write(wrong, _run(0.9))
    store.write(tmp_path / "right", _run(0.5, "n"))
    text = (
        "sample 0: proof proves that no perturbation smaller than 0.9 changes the class, but search found one of size"
    )
    done = cli("report", wrong, tmp_path / "right")
    assert done.code == ExitCode.FAILED
    assert text in done.out
    assert "rely on neither" in done.out
    assert text in (wrong / "index.html").read_text(encoding="utf-8")
    done = cli("compare", wrong, tmp_path / "right")
    assert done.code == ExitCode.FAILED
    assert f"sample 0: proof in {wrong} proves" in done.err
    assert cli("report", tmp_path / "right").code == 0


@final
@dataclass(frozen=True, kw_only=True)
class _Lies(Certificate):
    """Says that everything is safe."""

    @property
    def name(self) -> str:
        return "lies"

    def certify(self, problem: Problem) -> Certified:
        found = pb.Lipschitz().certify(problem)
        return replace(found, radius=found.radius + 1e6, method=self.name)


@pytest.mark.parametrize("options", [["--shard-size", 1], pytest.param(["--budget", 0.1], marks=pytest.mark.slow)])
def test_runs_that_contradict_themselves_fail(
    cli: Any, asked: Callable[[str], list[object]], monkeypatch: pytest.MonkeyPatch, options: list[object]
) -> None:
    monkeypatch.setattr("pertbound.experiments.question.Lipschitz", _Lies)
    monkeypatch.setattr(importlib.import_module("pertbound.bracket"), "_certificate", lambda _effort: _Lies())
    done = cli(*asked("bracket"), *options)
    assert done.code == ExitCode.FAILED, done.err
    assert "lies proves that no perturbation smaller than" in done.err + done.out


# --- the process ------------------------------------------------------------------------------------------------------


def _process(source: str, **options: Any) -> subprocess.Popen[bytes]:
    code = f"import sys; sys.argv[0] = 'pertbound'\n{source}\nfrom pertbound_entry import run; run()"
    return subprocess.Popen([sys.executable, "-c", code, *options.pop("arguments", [])], **options)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["--help"], ["query"]])
def test_a_reader_that_stops_is_no_error(command: list[str], tmp_path: Path) -> None:
    store.write(tmp_path / "run", _run())
    sql = "SELECT * FROM range(100000)"
    arguments = [*command, str(tmp_path / "run"), sql, "--format", "csv"] if command == ["query"] else command
    read, write = os.pipe()
    os.close(read)
    process = _process("", arguments=arguments, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (ExitCode.BROKEN_PIPE, b"")


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "ImportError('no torch')", "SystemExit(1)"])
def test_what_happens_while_it_is_loaded_gets_a_code_too(raised: str) -> None:
    """An import that raises, which a signal at that time comes to."""
    source = f"class Finder:\n    def find_spec(self, name, *_):\n        if name == 'torch': raise {raised}\n"
    process = _process(f"{source}sys.meta_path.insert(0, Finder())", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=120)
    assert process.returncode == (130 if raised == "KeyboardInterrupt" else 70)
    assert out == b""
    assert b"Traceback" not in err
    assert len(err.splitlines()) <= 2
