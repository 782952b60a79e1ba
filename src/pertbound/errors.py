"""Every error that pertbound raises on purpose, and nothing else.

Each message says what was got, where, and the likely remedy. The command line turns any of these into one
message and exit code 2.
"""

from __future__ import annotations


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
