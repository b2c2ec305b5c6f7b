"""Draw the training loss and the validation error of a run from its TensorBoard logs.

python scripts/plot_training.py OUT/TRAIN FIGURE.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="output folder of a training run")
    parser.add_argument("figure", help="PNG to write")
    arguments = parser.parse_args()
    logs = read(Path(arguments.run) / "tensorboard")
    if "loss" not in logs:
        sys.exit(f"error: '{arguments.run}' holds no TensorBoard log of a loss; expected a training run's folder")
    draw(logs).savefig(arguments.figure, dpi=110, metadata={"Software": None})


def read(folder: Path) -> dict[str, np.ndarray]:
    """Steps and values by tag, ``(N, 2)``; a resumed run replaces what it did again."""
    logs: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("events.*")):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            logs.setdefault(tag, {}).update({event.step: event.value for event in events.Scalars(tag)})
    return {tag: np.array(sorted(values.items())) for tag, values in logs.items()}


def draw(logs: dict[str, np.ndarray]) -> Figure:
    """Loss over steps and validation error over epochs.

    The loss has a likelihood in it and can fall below zero, so its axis is linear, and cut above its start.
    """
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps, loss = logs["loss"].T
    window = max(1, min(50, loss.size // 5))
    left.plot(steps, loss, color="#c8d4e8", lw=0.6, label="each step")
    smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
    left.plot(steps[window - 1 :], smooth, color="#1f4e9e", label=f"mean of {window} steps")
    left.set(xlabel="step", ylabel="loss", title="training, random masks")
    left.set_ylim(np.min(smooth) - 0.1, np.max(smooth) + 0.1)
    left.legend()
    for tag, values in logs.items():
        if "mse" in tag:
            right.plot(*values.T, "o-", color="#b5432a", ms=3)
    right.set(xlabel="epoch", ylabel="squared error in the brain", yscale="log", title="validation, whole brain masked")
    return figure


if __name__ == "__main__":
    main()
