"""What `pertbound.compare` is made of: its answers, the runs it takes, limits for chance, and what it costs to tell."""

from pertbound.comparison.answers import Comparison, Interval, Model, MoreSamples, Pair, Place, Tighten, Verdict

__all__ = ["Comparison", "Interval", "Model", "MoreSamples", "Pair", "Place", "Tighten", "Verdict"]
