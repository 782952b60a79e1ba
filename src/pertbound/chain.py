"""What binds the files of a run folder to each other, by SHA-256.

- A file of rows or witnesses has the beginning of the hash of its own bytes in its name.
- The metadata of a file of rows hold the name of its witnesses' file, and repeat `run.json`.
- `layers.json` holds the hash of `run.json`, that of the names of all files of rows, and that of what it says itself.

So a change of one file shows in another one. Whoever can write all files can make these hashes anew: they show damage,
mixed runs and careless changes. What a run claims is therefore computed again from the model and the data
(`experiments/check.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

DESCRIPTION, SHARDS, LAYERS, BOUND = "description", "shards", "layers", "bound"
"""Keys: of the hash of `run.json`, of the rows' names, of `layers.json`, and of all three in `layers.json`."""


def of_run(about: Mapping[str, Any]) -> str:
    """The SHA-256 of what `run.json` says, however it is laid out."""
    return hashlib.sha256(json.dumps(about, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def of_shards(names: Iterable[str]) -> str:
    """The SHA-256 of the names of all files of rows, which hold their own hashes."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def of_layers(about: Mapping[str, Any], names: Iterable[str], layers: Mapping[str, Any]) -> dict[str, str]:
    """What `layers.json` is bound to; `layers` is what it says besides."""
    return {DESCRIPTION: of_run(about), SHARDS: of_shards(names), LAYERS: of_run(layers)}
