"""Who computes the shards of a run: this process, or the processes of a cluster. Engines know rows only."""

from pertbound.engine.base import Done, Engine, Failed, Make, drive
from pertbound.engine.local import Local
from pertbound.engine.ray import Ray

__all__ = ["Done", "Engine", "Failed", "Local", "Make", "Ray", "drive"]
