"""VNN-LIB against the formula itself, evaluated at random points; and what is not read is refused with its line."""

from __future__ import annotations

import gzip
import random
import sys
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pertbound as pb
from clocks import processor_seconds
from pertbound.errors import PropertyTimeoutError
from pertbound.frontends import vnnlib
from pertbound.frontends.vnnlib import Property, parse_vnnlib, read_vnnlib

DECLARED = "".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0", "Y_1", "Y_2"))
BOXED = "(assert (and (>= X_0 0) (<= X_0 1)(>= X_1 -1)(<= X_1 2)))"
Formula = str | tuple[object, ...]


def fulfilled(claim: Property, x: list[Fraction], y: list[Fraction]) -> bool:
    """Does the point lie in a case's box, and fulfil one of its conditions?"""
    return any(
        all(low <= v <= high for low, v, high in zip(case.lower, x, case.upper, strict=True))
        and any(all(one.holds(y) for one in condition) for condition in case.conditions)
        for case in claim.cases
    )


def test_a_robustness_property() -> None:
    claim = parse_vnnlib(
        "; a comment (with parentheses\n"
        + DECLARED
        + "\n(assert (<= X_0 0.5)) (assert (>= X_0 -.25))(assert (= X_1 3e-1))"
        "(assert (or (and (>= Y_0 Y_1)) (and (>= Y_2 Y_1))))"
    )
    (case,) = claim.cases
    assert (claim.inputs, claim.outputs) == (2, 3)
    assert case.lower == (Fraction(-1, 4), Fraction(3, 10))
    assert case.upper == (Fraction(1, 2), Fraction(3, 10))
    assert [condition[0].coefficients for condition in case.conditions] == [((0, -1), (1, 1)), ((1, 1), (2, -1))]


def test_boxes_in_a_disjunction_become_cases() -> None:
    boxes = (
        "(assert (or (and (<= X_0 1) (>= X_0 0) (<= Y_0 2)) (and (<= X_0 3) (>= X_0 2) (>= Y_1 Y_0 )) (and (<= X_0 1)"
    )
    claim = parse_vnnlib(DECLARED + "(assert (= X_1 0))" + boxes + "(>= X_0 0) (<= Y_1 2))))")
    assert [(case.lower[0], case.upper[0], len(case.conditions)) for case in claim.cases] == [(0, 1, 2), (2, 3, 1)]


def test_what_cannot_be_fulfilled_leaves_no_case() -> None:
    for more in (
        "(assert (<= X_0 -1))",
        "(assert (>= 1 2))",
        "(assert (< (- Y_0 Y_0) 0))",
        "(assert false)",
        "(assert (or))",
    ):
        assert parse_vnnlib(DECLARED + BOXED + more).cases == ()
    for more in ("", "(assert (<= 1 2))", "(assert (and))", "(assert true)", "(assert (not (or)))"):
        assert parse_vnnlib(DECLARED + BOXED + more).cases[0].conditions == ((),)


def _text(formula: Formula) -> str:
    return formula if isinstance(formula, str) else f"({' '.join(map(_text, formula))})"  # type: ignore[arg-type]


_numbers = st.sampled_from(["0", "1", "-2", "0.5", "1.25e0", "+3", ".5"])
_terms = st.recursive(
    _numbers | st.sampled_from(["Y_0", "Y_1", "Y_2"]),
    lambda inner: (
        st.tuples(st.sampled_from("+-"), inner, inner)
        | st.tuples(st.just("-"), inner)
        | st.tuples(st.just("*"), _numbers, inner)
        | st.tuples(st.just("/"), inner, st.just("4"))
    ),
    max_leaves=4,
)
_atoms = st.tuples(st.sampled_from(["<=", "<", ">=", ">", "="]), _terms, _terms) | st.tuples(
    st.sampled_from(["<=", ">="]), st.sampled_from(["X_0", "X_1"]), _numbers
)
_formulas = st.recursive(
    _atoms,
    lambda inner: st.tuples(st.sampled_from(["and", "or"]), inner, inner) | st.tuples(st.just("and"), inner),
    max_leaves=6,
)


def _value(term: Formula, point: dict[str, Fraction]) -> Fraction:
    if isinstance(term, str):
        return point[term] if term in point else Fraction(term)
    values = [_value(part, point) for part in term[1:]]  # type: ignore[arg-type]
    match term[0], values:
        case "-", [only]:
            return -only
        case "+", [a, b]:
            return a + b
        case "-", [a, b]:
            return a - b
        case "*", [a, b]:
            return a * b
        case _, [a, b]:
            return a / b
        case _:
            raise AssertionError


def _true(formula: Formula, point: dict[str, Fraction]) -> bool:
    match formula[0]:
        case "and":
            return all(_true(part, point) for part in formula[1:])  # type: ignore[arg-type]
        case "or":
            return any(_true(part, point) for part in formula[1:])  # type: ignore[arg-type]
        case sign:
            left, right = (_value(part, point) for part in formula[1:])  # type: ignore[arg-type]
            return {"<=": left <= right, "<": left < right, ">=": left >= right, ">": left > right, "=": left == right}[
                sign
            ]  # type: ignore[index]


@given(formula=_formulas, negated=st.booleans(), seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_the_normal_form_says_what_the_formula_says(formula: Formula, negated: bool, seed: int) -> None:
    if negated and "X_" in _text(formula):
        negated = False  # strict bounds of inputs are refused
    text = f"(not {_text(formula)})" if negated else _text(formula)
    claim = parse_vnnlib(DECLARED + BOXED + f"(assert {text})")
    dice = random.Random(seed)
    for _ in range(20):
        point = {
            name: Fraction(dice.choice([-2, -1, 0, 1, 2, 3, 6]), dice.choice([1, 2, 4])) for name in ("X_0", "X_1")
        }
        point |= {
            name: Fraction(dice.choice([-2, -1, 0, 1, 2, 3, 5]), dice.choice([1, 2, 4]))
            for name in ("Y_0", "Y_1", "Y_2")
        }
        x, y = [point["X_0"], point["X_1"]], [point["Y_0"], point["Y_1"], point["Y_2"]]
        inside = 0 <= x[0] <= 1 and -1 <= x[1] <= 2
        assert fulfilled(claim, x, y) == (inside and _true(formula, point) != negated)


REFUSED = {
    "(assert (<= X_0": "opened that is never closed",
    "(assert (<= X_0 1)))": "closed that was never opened",
    "assert": "outside of parentheses",
    "(assert (<= X_7 1))": "'X_7' is not declared",
    "(assert (<= Z 1))": "neither a variable nor a number",
    "(assert (<= X_0 nan))": "neither a variable nor a number",
    "(assert (<= X_0 1e99999999999))": "more than three in its exponent",
    "(assert (<= X_0 " + "9" * 401 + "))": "more than 400 digits",
    "((declare-const X_9 Real))": "is no command",
    "(assert (<= X_0 (+ X_1 1)))": "relates X_0, X_1; inputs may only have bounds",
    "(assert (<= X_0 Y_1))": "relates X_0, Y_1",
    "(assert (< X_0 1))": "strict bounds of inputs",
    "(assert (<= (* Y_0 Y_1) 1))": "not linear",
    "(assert (<= (/ Y_0 0) 1))": "not linear",
    "(assert (=> (<= Y_0 1) (<= Y_1 1)))": "'=>' of 2 is not read",
    "(assert (<= Y_0 1 2))": "'<=' of 3 is not read",
    "(assert Y_0)": "'Y_0' is no formula",
    "(assert ())": "is no formula",
    "(declare-const Q Real)": "only reals named",
    "(declare-const X_9 Int)": "only reals named",
    "(declare-const X_9 Real)": "not X_0, X_1, ... in turn",
    "(declare-network N (declare-input X Real [1]))": "is no command of VNN-LIB 1.0",
    "(assert " + "(not " * 200 + "(<= Y_0 1)" + ")" * 201: "parentheses are open",
    "(assert (<= (* 1e300 " * 1
    + "(* 1e300 " * 60
    + "Y_0"
    + ")" * 61
    + " 1))": "more than 8192 bits|parentheses are open",
}


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_read_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(pb.PropertyError, match=REFUSED[text]) as caught:
        parse_vnnlib(DECLARED + "\n" + BOXED + "\n" + text)
    assert "line 3" in str(caught.value) or "in turn" in str(caught.value)


def test_inputs_need_bounds() -> None:
    with pytest.raises(pb.PropertyError, match="X_1 has no lower or no upper bound"):
        parse_vnnlib(DECLARED + "(assert (and (<= X_0 1) (>= X_0 0) (<= X_1 1)))")
    with pytest.raises(pb.PropertyError, match="declares 0 variables"):
        parse_vnnlib("")


def test_disjuncts_that_multiply_without_end_are_refused_soon() -> None:
    either = "(assert (or (<= Y_0 1) (<= Y_1 1)))"
    with processor_seconds(10), pytest.raises(pb.PropertyError, match="more than 20000 disjuncts"):
        parse_vnnlib(DECLARED + BOXED + either * 1000)


def test_files(tmp_path: Path) -> None:
    text = DECLARED + BOXED + "(assert (<= Y_0 1))"
    (tmp_path / "p.vnnlib").write_text(text)
    (tmp_path / "p.vnnlib.gz").write_bytes(gzip.compress(text.encode()))
    assert read_vnnlib(tmp_path / "p.vnnlib") == read_vnnlib(str(tmp_path / "p.vnnlib.gz")) == parse_vnnlib(text)
    (tmp_path / "bad.vnnlib").write_bytes(b"\xff\xfe(assert)")
    (tmp_path / "bad.vnnlib.gz").write_bytes(gzip.compress(text.encode())[:20])
    for name, message in (("bad.vnnlib", "is no text"), ("bad.vnnlib.gz", "packed data"), ("absent", "no such file")):
        with pytest.raises(pb.PropertyError, match=message):
            read_vnnlib(tmp_path / name)


def test_damaged_text_is_refused_or_read() -> None:
    text = DECLARED + BOXED + "(assert (or (and (<= Y_0 (* 2.5 Y_1)) (>= Y_2 1e-3)) (not (< Y_1 3))))"
    for seed in range(2000):
        dice = random.Random(seed)
        found = list(text)
        for _ in range(dice.choice([1, 2, 5])):
            at = dice.randrange(len(found))
            found[at : at + dice.choice([0, 1, 4])] = dice.choice(
                [" ", "(", ")", "9", "e", "-", "|", ";", "X_1", "\0", "é"]
            )
        try:
            parse_vnnlib("".join(found))
        except pb.PropertyError:
            continue


def test_the_vnncomp_properties_are_read(data_root: Path) -> None:
    paths = sorted((data_root / "networks").glob("**/*.vnnlib*"))
    assert len(paths) == 70
    for path in paths[::23]:
        claim = read_vnnlib(path)
        assert (claim.inputs, claim.outputs) in ((784, 10), (3072, 10))
        assert [len(case.conditions) for case in claim.cases] == [9]


# --- linear time, counted in operations -----------------------------------------------------------------------------


def lines(text: str) -> int:
    """How many lines of the reader and of the arithmetic of fractions are run for a property."""
    count, files = [0], ("vnnlib", "fractions")

    def local(frame: Any, event: str, argument: Any) -> Any:
        count[0] += event == "line"
        return local

    def trace(frame: Any, event: str, argument: Any) -> Any:
        return local if any(name in frame.f_code.co_filename for name in files) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        parse_vnnlib(DECLARED + BOXED + text)
    finally:
        sys.settrace(before)
    return count[0]


MANY: dict[str, Callable[[int], str]] = {
    "rational terms": lambda n: f"(assert (<= (+ {' '.join(['(* (/ 1 3) Y_0)'] * n)}) 1))",
    "disjuncts": lambda n: f"(assert (or {' '.join(f'(<= Y_0 {i})' for i in range(n))}))",
    "boxes": lambda n: f"(assert (or {' '.join(f'(and (<= X_0 0.{i:04d}) (<= Y_0 1))' for i in range(n))}))",
    "asserts": lambda n: "(assert (<= X_0 1))" * n,
    "conditions": lambda n: "".join(f"(assert (<= Y_0 {i}))" for i in range(n)),
    "true parts": lambda n: f"(assert (and {'(or (<= Y_0 1) (<= Y_1 2))' * 4} {'(and)' * n}))",
    "lists in lists": lambda n: f"(assert {'(or ' * 50}{'(<= Y_0 1)' * n}{')' * 50})",
}


@pytest.mark.parametrize("many", MANY.values(), ids=MANY)
def test_reading_is_linear(many: Callable[[int], str]) -> None:
    empty = lines("")
    assert lines(many(160)) - empty < 4.6 * (lines(many(40)) - empty)


def test_the_count_catches_work_that_is_not_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = vnnlib.parse_vnnlib
    text = MANY["asserts"](10), MANY["asserts"](40)

    def mutant(text: str) -> Property:
        """Reads all that came before again with each command."""
        parts = text.split("(assert")
        for k in range(2, len(parts)):
            inner("(assert".join(parts[:k]))
        return inner(text)

    monkeypatch.setattr(sys.modules[__name__], "parse_vnnlib", mutant)
    assert lines(text[1]) > 4.6 * lines(text[0])


def test_numbers_that_grow_are_refused_where_they_do() -> None:
    """1/3 + 1/5 + 1/7 + ...: the denominator is the product of all of them."""
    odd = [f"(/ 1 {n}) " for n in range(3, 20_000, 2)]
    with pytest.raises(pb.PropertyError, match="line 1: a number has more than 8192 bits"):
        parse_vnnlib(DECLARED + BOXED + f"(assert (<= (+ {''.join(odd)}) Y_0))")
    grown = "(* 1e300 " * 20 + "Y_0" + ")" * 20
    with pytest.raises(pb.PropertyError, match="more than 8192 bits"):
        parse_vnnlib(DECLARED + BOXED + f"(assert (<= {grown} 1))")


def test_one_command_is_in_memory_at_a_time() -> None:
    text = DECLARED + BOXED + "(assert (<= X_0 1))" * 3000
    tracemalloc.start()
    try:
        parse_vnnlib(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 400_000


def test_inequalities_that_multiply_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vnnlib, "_MOST_LITERALS", 5000)
    with pytest.raises(pb.PropertyError, match="more than 5000 inequalities"):
        parse_vnnlib(DECLARED + BOXED + MANY["conditions"](100) + MANY["disjuncts"](100))
    monkeypatch.setattr(vnnlib, "_MOST_INEQUALITIES", 50)
    with pytest.raises(pb.PropertyError, match="more than 50 inequalities of outputs"):
        parse_vnnlib(DECLARED + BOXED + MANY["conditions"](100))


def test_reading_ends_with_the_time(tmp_path: Path) -> None:
    (tmp_path / "p.vnnlib").write_text(DECLARED + BOXED)
    with pytest.raises(PropertyTimeoutError, match="not read to its end within 0 seconds"):
        read_vnnlib(tmp_path / "p.vnnlib", seconds=0.0)
    assert read_vnnlib(tmp_path / "p.vnnlib", seconds=3600.0) == read_vnnlib(tmp_path / "p.vnnlib")
