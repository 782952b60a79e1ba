"""Reads VNN-LIB 1.0 properties: boxes of inputs, and linear conditions on outputs that make an input a counterexample.

The language is the part of SMT-LIB that the verification competitions use: `declare-const` of the reals X_0, X_1, ...
and Y_0, Y_1, ...; `assert` of `and`, `or`, `not` over `<=`, `<`, `>=`, `>`, `=`; and terms of `+`, `-`, `*`, `/`. The
assertions together describe the *counterexamples*. They are brought into disjunctive normal form, in which each
disjunct is a box for X and a conjunction of linear inequalities in Y. Numbers are kept as exact fractions.

Files come from strangers. Time and memory are linear in the length of the text, and in what the limits below allow:
one command is parsed at a time, bounds of inputs go into a box at once, a box is stored by what distinguishes it from
the one that all share, and numbers of more than 8192 bits end in an error where they first appear.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import final

from pertbound.errors import PropertyError
from pertbound.frontends.files import read_bytes
from pertbound.frontends.vnnlib_bounds import Bounds, Shared
from pertbound.frontends.watch import Watch

_MOST_BYTES, _MOST_DEPTH, _MOST_DIGITS, _MOST_BITS = 2**26, 100, 400, 8192
_MOST_DISJUNCTS, _MOST_LITERALS, _MOST_INEQUALITIES = 20_000, 10_000_000, 1_000_000
_TOKEN = re.compile(r"[()]|;[^\n]*|\|[^|]*\||[^\s();|]+")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_LONG = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_VARIABLE = re.compile(r"([XY])_(\d{1,8})", re.ASCII)
_IGNORED = {"set-logic", "set-info", "set-option", "check-sat", "get-model", "get-value", "exit", "echo"}
_OPPOSITE = {"<=": ">", ">=": "<", "<": ">=", ">": "<="}


@final
@dataclass(frozen=True)
class Inequality:
    """The sum of coefficient * Y_index is at most `bound`; below it where `strict`."""

    coefficients: tuple[tuple[int, Fraction], ...]
    bound: Fraction
    strict: bool

    def holds(self, outputs: Sequence[Fraction]) -> bool:
        """Is it so for these outputs?"""
        value = sum((factor * outputs[index] for index, factor in self.coefficients), Fraction(0))
        return value < self.bound if self.strict else value <= self.bound


Conjunction = tuple[Inequality, ...]


@final
@dataclass(frozen=True)
class Case:
    """A box of inputs, and the conjunctions of which each alone makes an input in it a counterexample."""

    lower: tuple[Fraction, ...]
    upper: tuple[Fraction, ...]
    conditions: tuple[Conjunction, ...]


@final
@dataclass(frozen=True)
class Property:
    """What a file asks: do the cases together have no counterexample? Boxes that are empty are left out."""

    inputs: int
    outputs: int
    cases: tuple[Case, ...]


def read_vnnlib(path: Path | str, *, seconds: float = math.inf) -> Property:
    """The property in a `.vnnlib` file, or a `.vnnlib.gz`. Raises `PropertyError`, which says what and where.

    Raises `PropertyTimeoutError` where reading it takes longer than `seconds`.
    """
    path, watch = Path(path), Watch(seconds)
    try:
        text = read_bytes(path, _MOST_BYTES, PropertyError).decode()
    except UnicodeDecodeError as error:
        raise PropertyError(f"{path}: is no text ({error}); VNN-LIB files are") from error
    try:
        return parse_vnnlib(text, watch=watch)
    except PropertyError as error:
        raise type(error)(f"{path}: {error}") from error


def parse_vnnlib(text: str, *, watch: Watch | None = None) -> Property:
    """The property that the text describes."""
    watch = watch or Watch()
    found = _Assertions(watch)
    for command in _parsed(text, watch):
        name = command.items[0] if command.items else ""
        if name in ("declare-const", "declare-fun"):
            found.declare(command)
        elif name == "assert" and len(command.items) == 2:
            found.add(command.items[1], command.line)
        elif not isinstance(name, str) or name not in _IGNORED:
            raise PropertyError(
                f"line {command.line}: {_shown(name)} is no command of VNN-LIB 1.0, which has declare-const and assert"
            )
    return found.claim()


@final
@dataclass(frozen=True, slots=True)
class _List:
    """A parenthesised list of words and lists, and the line where it begins."""

    line: int
    items: list[str | _List]


def _parsed(text: str, watch: Watch) -> Iterator[_List]:
    """The lists at the top, one after the other, so that only one is in memory."""
    top = _List(1, [])
    open_, line, at = [top], 1, 0
    for match in _TOKEN.finditer(text):
        line, at = line + text.count("\n", at, match.start()), match.start()
        token = match.group()
        if token == "(":
            watch.look()
            inner = _List(line, [])
            open_[-1].items.append(inner)
            open_.append(inner)
            if len(open_) > _MOST_DEPTH:
                raise PropertyError(f"line {line}: more than {_MOST_DEPTH} parentheses are open")
        elif token == ")":
            closed = open_.pop()
            if not open_:
                raise PropertyError(f"line {line}: a parenthesis is closed that was never opened")
            if len(open_) == 1:
                top.items.clear()
                yield closed
        elif not token.startswith(";"):
            if len(open_) == 1:
                raise PropertyError(f"line {line}: {_shown(token)} stands outside of parentheses; is this VNN-LIB?")
            open_[-1].items.append(token.strip("|"))
    if len(open_) > 1:
        raise PropertyError(f"line {open_[-1].line}: a parenthesis is opened that is never closed")


@final
@dataclass(frozen=True, slots=True)
class _Linear:
    """constant + the sum of factor * variable."""

    constant: Fraction
    factors: dict[str, Fraction]


@final
@dataclass(frozen=True, slots=True)
class _Literal:
    """The sum of factor * variable <= bound, or < where strict; the line it stands in."""

    factors: dict[str, Fraction]
    bound: Fraction
    strict: bool
    line: int


_Disjuncts = list[list[_Literal]]
"""A formula in disjunctive normal form."""


@final
class _Assertions:
    """All that was declared and asserted so far."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._declared: dict[str, set[int]] = {"X": set(), "Y": set()}
        self._base = Bounds()
        self._fixed: dict[Inequality, None] = {}
        self._possible = True
        self._either: _Disjuncts = [[]]
        self._known: dict[Inequality, Inequality] = {}

    def declare(self, command: _List) -> None:
        """(declare-const X_0 Real), or (declare-fun X_0 () Real)."""
        words = [item for item in command.items if isinstance(item, str)]
        match = _VARIABLE.fullmatch(words[1]) if len(words) == 3 else None
        if match is None or words[2] != "Real":
            raise PropertyError(
                f"line {command.line}: only reals named X_0, X_1, ... and Y_0, Y_1, ... are declared in VNN-LIB 1.0"
            )
        self._declared[match[1]].add(int(match[2]))

    def add(self, formula: str | _List, line: int) -> None:
        """One more assertion."""
        disjuncts = self._formula(formula, False, line)
        if len(disjuncts) != 1:
            self._either = _both(self._either, disjuncts, line)
            return
        conditions = self._split(disjuncts[0], self._base)
        self._possible = self._possible and conditions is not None
        self._fixed.update(dict.fromkeys(conditions or ()))
        if len(self._fixed) > _MOST_INEQUALITIES:
            raise PropertyError(f"line {line}: more than {_MOST_INEQUALITIES} inequalities of outputs are asserted")

    def claim(self) -> Property:
        """All of it."""
        sizes: list[int] = []
        for letter, numbers in self._declared.items():
            if not numbers or max(numbers) != len(numbers) - 1:
                raise PropertyError(
                    f"declares {len(numbers)} variables {letter}_i, not {letter}_0, {letter}_1, ... in turn"
                )
            sizes.append(len(numbers))
        shared, fixed = Shared.of(self._base, sizes[0]), tuple(self._fixed)
        cases: dict[tuple[object, ...], tuple[Bounds, dict[tuple[int, ...], Conjunction]]] = {}
        literals = 0
        for disjunct in self._either:
            self._watch.look()
            box = Bounds(self._base.ends)
            conditions = self._split(disjunct, box)
            shared.require_bounds(box)
            if conditions is None or not self._possible or shared.crossed or box.crossed:
                continue
            boxed = cases.setdefault(box.key, (box, {}))[1]
            whole = (*fixed, *conditions)
            boxed[tuple(map(id, whole))] = whole
            literals += len(whole)
            if literals > _MOST_LITERALS or len(cases) * sizes[0] > _MOST_LITERALS:
                raise PropertyError(
                    f"has more than {_MOST_LITERALS} inequalities in its disjuncts, or {len(cases)} boxes of "
                    f"{sizes[0]} inputs, which are too many; split it into several files"
                )
        kept = (Case(*shared.within(box), tuple(conditions.values())) for box, conditions in cases.values())
        return Property(sizes[0], sizes[1], tuple(kept))

    def _split(self, literals: Sequence[_Literal], box: Bounds) -> Conjunction | None:
        """Input bounds go into the box, output conditions are returned; None where one of them is false."""
        conditions: dict[Inequality, None] = {}
        for literal in literals:
            factors = {name: factor for name, factor in literal.factors.items() if factor}
            inputs = [name for name in factors if name.startswith("X")]
            if not factors:
                if literal.bound < 0 or (literal.strict and literal.bound == 0):
                    return None
            elif not inputs:
                terms = sorted((int(name[2:]), factor) for name, factor in factors.items())
                made = Inequality(tuple(terms), literal.bound, literal.strict)
                conditions[self._known.setdefault(made, made)] = None
            elif len(factors) > 1:
                raise PropertyError(
                    f"line {literal.line}: relates {', '.join(sorted(factors))[:80]}; inputs may only have bounds that "
                    "are numbers"
                )
            elif literal.strict:
                raise PropertyError(f"line {literal.line}: strict bounds of inputs are not read; write <= and >=")
            else:
                box.bound(int(inputs[0][2:]), factors[inputs[0]], literal.bound)
        return tuple(conditions)

    def _formula(self, formula: str | _List, negated: bool, line: int) -> _Disjuncts:
        self._watch.look()
        if not isinstance(formula, _List) or not formula.items or not isinstance(formula.items[0], str):
            word = formula if isinstance(formula, str) else "()"
            if word in ("true", "false"):
                return [[]] if (word == "true") != negated else []
            raise PropertyError(f"line {line}: {_shown(word)} is no formula")
        line, name, parts = formula.line, formula.items[0], formula.items[1:]
        if name == "not" and len(parts) == 1:
            return self._formula(parts[0], not negated, line)
        if name in ("and", "or"):
            found = [self._formula(part, negated, line) for part in parts]
            if (name == "and") == negated:
                return [disjunct for part in found for disjunct in part]
            # what is one conjunction itself is put in at the end, once, so that nothing long is gone through often
            result: _Disjuncts = [[]]
            for part in found:
                result = result if len(part) == 1 else _both(result, part, line)
            return _both(result, [[literal for part in found if len(part) == 1 for literal in part[0]]], line)
        if name == "=" and len(parts) == 2:
            ends = [[self._literal(sign, parts, line)] for sign in (("<", ">") if negated else ("<=", ">="))]
            return ends if negated else [[*ends[0], *ends[1]]]
        if name in _OPPOSITE and len(parts) == 2:
            return [[self._literal(_OPPOSITE[name] if negated else name, parts, line)]]
        raise PropertyError(
            f"line {line}: {_shown(name)} of {len(parts)} is not read; there are and, or, not, <=, >=, ="
        )

    def _literal(self, sign: str, parts: Sequence[str | _List], line: int) -> _Literal:
        left, right = (self._term(part, line) for part in parts)
        if sign.startswith(">"):
            left, right = right, left
        factors = dict(left.factors)
        for name, factor in right.factors.items():
            factors[name] = factors.get(name, Fraction(0)) - factor
        whole = _small(_Linear(right.constant - left.constant, factors), line)
        return _Literal(factors, whole.constant, not sign.endswith("="), line)

    def _term(self, term: str | _List, line: int) -> _Linear:
        self._watch.look()
        if isinstance(term, str):
            match = _VARIABLE.fullmatch(term)
            if match is not None and int(match[2]) in self._declared[match[1]]:
                return _Linear(Fraction(0), {f"{match[1]}_{int(match[2])}": Fraction(1)})
            if len(term) <= _MOST_DIGITS and _NUMBER.fullmatch(term):
                return _Linear(Fraction(term), {})
            what = "is not declared" if match is not None else "is neither a variable nor a number"
            if _LONG.fullmatch(term):
                what = f"is a number of more than {_MOST_DIGITS} digits, or of more than three in its exponent"
            raise PropertyError(f"line {line}: {_shown(term)} {what}")
        name = term.items[0] if term.items else ""
        parts = [self._term(part, term.line) for part in term.items[1:]]
        if name == "+" and parts:
            return _sum(parts, term.line)
        if name == "-" and parts:
            first, rest = (parts[0], parts[1:]) if len(parts) > 1 else (_Linear(Fraction(0), {}), parts)
            return _sum([first, *(_scaled(part, Fraction(-1)) for part in rest)], term.line)
        if name == "*" and parts and sum(bool(part.factors) for part in parts) <= 1:
            result = next((part for part in parts if part.factors), _Linear(Fraction(1), {}))
            for part in parts:
                result = result if part.factors else _small(_scaled(result, part.constant), term.line)
            return result
        if name == "/" and len(parts) == 2 and not parts[1].factors and parts[1].constant:
            return _small(_scaled(parts[0], 1 / parts[1].constant), term.line)
        raise PropertyError(f"line {term.line}: {_shown(name)} of {len(parts)} terms is not read, or not linear")


def _both(some: _Disjuncts, others: _Disjuncts, line: int) -> _Disjuncts:
    """Each disjunct of one with each of the other; the lists of `some` are used up."""
    literals = len(others) * sum(map(len, some)) + len(some) * sum(map(len, others))
    if len(some) * len(others) > _MOST_DISJUNCTS or literals > _MOST_LITERALS:
        raise PropertyError(
            f"line {line}: the property has more than {_MOST_DISJUNCTS} disjuncts, or {_MOST_LITERALS} inequalities in "
            "them; split it into several files"
        )
    if len(others) != 1:
        return [[*a, *b] for a in some for b in others]
    for disjunct in some:
        disjunct.extend(others[0])
    return some


def _sum(parts: Sequence[_Linear], line: int) -> _Linear:
    """The sum, refused as soon as a number grows beyond use: denominators multiply, and so would the time."""
    constant, factors = Fraction(0), dict[str, Fraction]()
    for part in parts:
        constant = _few_bits(constant + part.constant, line)
        for name, factor in part.factors.items():
            factors[name] = _few_bits(factors.get(name, Fraction(0)) + factor, line)
    return _Linear(constant, factors)


def _scaled(term: _Linear, factor: Fraction) -> _Linear:
    return _Linear(term.constant * factor, {name: value * factor for name, value in term.factors.items()})


def _small(term: _Linear, line: int) -> _Linear:
    """The term itself, unless its numbers grow beyond use."""
    for value in (term.constant, *term.factors.values()):
        _few_bits(value, line)
    return term


def _few_bits(value: Fraction, line: int) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MOST_BITS:
        raise PropertyError(f"line {line}: a number has more than {_MOST_BITS} bits; round it")
    return value


def _shown(word: object) -> str:
    return repr(word if isinstance(word, str) else "(...)")[:80]
