"""Does a property of a network hold in a box of inputs, or is there a counterexample?"""

from pertbound.verification.verdict import Answer, Verdict, verify
from pertbound.verification.witness import Counterexample

__all__ = ["Answer", "Counterexample", "Verdict", "verify"]
