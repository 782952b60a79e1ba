"""Attacks beside other tools' on the same networks and samples, and beside each other, in every norm."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from peers import SDP_CROWN, Peer, peer
from torch import Tensor

import pertbound as pb
from pertbound.attacks import ATTACKS

ENSEMBLE, UNIT = pb.Ensemble(), pb.DDN()
"""What is compared with the peers, and what its time is counted in."""
SAMPLES = 10
"""Of each network, where attacks are compared with each other: L-BFGS goes through them one by one."""
BOX = (0.0, 1.0)


def against_peers(data_dir: Path, peers_dir: Path) -> dict[str, Any]:
    """Mean L2 distances over the peers' best attack, on all samples that they attacked; then every attack we have.

    Pixels in [0, 1]. Distances are relative to the ensemble's in the same norm; times are multiples of what DDN takes
    for the same samples.
    """
    results: dict[str, Any] = {}
    for name in SDP_CROWN:
        found = peer(name, data_dir, peers_dir)
        entry: dict[str, Any] = {}
        _timed(found, UNIT, found.x, pb.Ball())  # the first one is slower
        for key, within in (("attack", pb.Ball()), ("attack_box", pb.Ball(box=BOX))):
            theirs = found.of(key)
            rows = (~theirs.isnan()).nonzero().flatten()
            where = "" if within.box is None else ", in the input box"
            _, unit = _timed(found, UNIT, found.x[rows], within)
            ours, seconds = _timed(found, ENSEMBLE, found.x[rows], within)
            entry[f"ensemble / peers' attack, mean of {len(rows)}{where} (target 1)"] = round(
                float(ours.mean() / theirs[rows].mean()), 4
            )
            entry[f"farther than the peers' by 1 %{where}"] = int((ours > 1.01 * theirs[rows]).sum())
            entry[f"ensemble, time / ddn's{where}"] = round(seconds / unit, 1)
        for p in (2.0, math.inf, 1.0):
            within = pb.Ball(p=p)
            _, unit = _timed(found, UNIT, found.x[:SAMPLES], within)
            best, seconds = _timed(found, ENSEMBLE, found.x[:SAMPLES], within)
            entry[f"ensemble, mean {within.norm_name}"] = f"{float(best.mean()):.4g} (time {seconds / unit:.2g})"
            for method in (a for a in ATTACKS.values() if a != ENSEMBLE):
                distance, seconds = _timed(found, method, found.x[:SAMPLES], within)
                said = f"{float((distance / best).mean()):.3f} (time {seconds / unit:.2g})"
                entry[f"{method.name} / ensemble, {within.norm_name}"] = said
        results[name] = entry
        print(name, flush=True)
        for key, value in entry.items():
            print(f"  {key}: {value}", flush=True)
    return results


def _timed(found: Peer, method: pb.Attack, x: Tensor, within: pb.Ball) -> tuple[Tensor, float]:
    """Distances, and seconds of computing, whatever else the machine does."""
    start = time.process_time()
    distance = pb.attack(found.network, x, method, within=within).distance
    return distance, time.process_time() - start
