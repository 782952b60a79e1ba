"""Every error that pertbound raises on purpose, and the rule by which two answers contradict each other.

Each message says what was got, where, and the likely remedy. The command line turns any of these into one
message and exit code 2, and `ContradictionError` into exit code 4.
"""

from __future__ import annotations

from typing import Any

ROUNDING = 1e-12
"""How far, relatively, a lower bound may lie above the distance to a witness: the rounding of float64."""


def contradicts(radius: Any, distance: Any) -> Any:
    """Whether a proved radius lies above the distance to a witness by more than rounding; numbers, arrays or tensors.

    A radius is right where it is at most the true distance d of the witness. Distances are rounded up when they are
    computed, and radii down, so d <= `distance` and any radius above `distance` is wrong. `ROUNDING` allows for the
    conversions between units and norms that follow. A wrong radius between d and `distance` is not seen: for n entries
    d is at least `distance` (1 - 3 n 2^-52).
    """
    return radius > distance * (1 + ROUNDING)


class PertboundError(Exception):
    """Base of all errors raised on purpose."""


class InputError(PertboundError):
    """Inputs, labels or options that cannot be meant: wrong shape, NaN, empty, out of range."""


class DataError(PertboundError):
    """A data set that is absent, damaged or of another format than its name says."""


class ModelFileError(PertboundError):
    """A model file that is absent, damaged, of another architecture, or not safe to open."""


class PropertyError(PertboundError):
    """A property file that is absent or damaged, or a property that cannot be asked about here."""


class PropertyTimeoutError(PropertyError):
    """A property whose reading was stopped, because it took longer than was allowed."""


class ConversionError(PertboundError):
    """A model that could not be read as a graph, or whose graph computes something else than the model."""


class UnsupportedLayerError(ConversionError):
    """An operation, or a layer in a place, for which no bound is known here."""


class RunError(PertboundError):
    """A run folder that cannot be read or written."""


class ContradictionError(PertboundError):
    """Two answers of which one must be wrong: a proved radius, and a nearer perturbation that changes the class.

    `certificate` and `attack` are the names of the methods; `attack` is empty where the caller of `pb.certify` gave the
    distance as `upper`. `radius` and `distance` are in the norm that was asked about.
    """

    def __init__(self, certificate: str, attack: str, sample: int, radius: float, distance: float) -> None:
        super().__init__(certificate, attack, sample, radius, distance)
        self.certificate, self.attack, self.sample = certificate, attack, sample
        self.radius, self.distance = radius, distance

    def __str__(self) -> str:
        seen = f"{self.attack} found one" if self.attack else "`upper` says that there is one"
        known = "" if self.attack else "`upper` must be the distance of a perturbation that was seen; if it is, "
        return (
            f"sample {self.sample}: {self.certificate} proves that no perturbation smaller than {self.radius:.12g} "
            f"changes the class, but {seen} of size {self.distance:.12g}\n"
            f"{known}one of the two is wrong, so rely on neither; please report it as a bug, with the model and the run"
        )

    def at(self, sample: int) -> ContradictionError:
        """The same about a sample that has another number where the caller counts."""
        return ContradictionError(self.certificate, self.attack, sample, self.radius, self.distance)
