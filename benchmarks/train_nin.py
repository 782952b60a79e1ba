"""Train network in network, a quarter as wide, on CIFAR-10: how `checkpoints/nin_cifar10.safetensors` was made.

Some hours on one core. The weights after each epoch are kept beside `--out`, with `.part` at the end.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pertbound.data import load
from pertbound.models import Progress, Recipe, accuracy, nin, save_checkpoint, train

WIDTH, DROPOUT, SEED = 0.25, 0.1, 0
RECIPE = Recipe(epochs=20, batch=64, peak_rate=0.025, shift=2, flip=True)


def main() -> None:
    """Train, and say how many test images are classified right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, test = (load("cifar10", options.data_dir, train=part) for part in (True, False))
    model = nin(width=WIDTH, dropout=DROPOUT).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def told(progress: Progress) -> None:
        print(f"epoch {progress.epoch} of {progress.epochs}: loss {progress.loss:.3f}, {progress.seconds:.0f} s")
        save_checkpoint(model, options.out.with_suffix(".part"), {"epoch": str(progress.epoch)})

    train(model, data, RECIPE, torch.Generator().manual_seed(SEED), told)
    right = f"{accuracy(model, test):.4f}"
    about = {"architecture": "nin", "data": "cifar10", "width": str(WIDTH), "dropout": str(DROPOUT), "seed": str(SEED)}
    about |= {"recipe": str(RECIPE), "test accuracy": right, "torch": torch.__version__}
    save_checkpoint(model, options.out, about)
    options.out.with_suffix(".part").unlink()
    print(f"test accuracy {right}")


if __name__ == "__main__":
    main()
