"""The reduction that reports share with comparisons; it stands in `pertbound.samples`."""

from pertbound.samples import ORDER, Brackets, Floats, Integers, Method, aligned, brackets, methods

__all__ = ["ORDER", "Brackets", "Floats", "Integers", "Method", "aligned", "brackets", "methods"]
