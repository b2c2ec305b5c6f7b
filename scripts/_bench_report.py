"""Write what scripts/bench.py measured into docs/benchmarks.md, between its markers, and as a plot beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from itermask3d.evaluation.docs import fill_blocks
from itermask3d.evaluation.text import markdown_table
from itermask3d.files.writing import write_atomically

__all__ = ["report"]


def report(measured: Mapping[str, Any], folder: Path) -> None:
    """Fill every table of ``folder/benchmarks.md`` for which there are figures, and draw ``benchmarks.png``."""
    page = folder / "benchmarks.md"
    blocks = {}
    for key, value in measured.items():
        writer = next((write for prefix, write in WRITERS.items() if key.startswith(prefix)), None)
        if writer:
            blocks[key] = writer(value)
    write_atomically(fill_blocks(page.read_text(), blocks), page)
    if "growth" in measured:
        draw(measured, folder / "benchmarks.png")


def pass_table(value: Mapping[str, float]) -> str:
    """Seconds of one pass of each form of the network."""
    plain = value["plain"]
    rows = [[name, f"{seconds:.2f}", f"{plain / seconds:.1f}"] for name, seconds in value.items()]
    return markdown_table(["form of the network", "seconds a pass (median of 5)", "times faster"], rows)


def time_table(value: Mapping[str, Any]) -> str:
    """One row a variant, compared with the first."""
    rows, first = [], value["rows"][0]
    for row in value["rows"]:
        rows.append(
            [
                row["variant"],
                str(row["passes"]),
                f"{row['seconds']:.3g}",
                f"{first['seconds'] / row['seconds']:.1f}",
                f"{row['peak_over_start_gb']:.1f}",
                f"{row['voxels_apart']} ({row['dice_before_small_components_go']:.4f})",
                f"{row['dice']:.4f}",
                row["outcome"],
            ]
        )
    head = ["variant", "passes", "seconds", "times faster", "peak GB over the start"]
    return markdown_table([*head, "voxels of the mask that differ (Dice)", "Dice of the final mask", "outcome"], rows)


def agreement_table(value: Sequence[Mapping[str, Any]]) -> str:
    """One row a variant: how many scans agree, and those that agree least."""
    rows = []
    for name in dict.fromkeys(row["variant"] for row in value):
        group = [row for row in value if row["variant"] == name]
        final = np.array([row["dice"] for row in group])
        loop = np.array([row["dice_before_small_components_go"] for row in group])
        same = sum(row["outcome"] == row["exact_outcome"] for row in group)
        below = [f"{row['case']} {row['dice']:.2f}" for row in sorted(group, key=lambda row: row["dice"])]
        rows.append(
            [
                name,
                f"{sum(row['passes'] for row in group) / len(group):.0f}",
                f"{same} of {len(group)}",
                f"{loop.min():.3f} ({np.median(loop):.4f})",
                f"{final.min():.3f} ({np.median(final):.4f})",
                f"{int((final >= 0.98).sum())} of {len(group)}",
                ", ".join(below[: int((final < 0.98).sum())]) or "none",
            ]
        )
    head = ["variant", "mean passes", "same outcome", "Dice of the loop's mask: lowest (median)"]
    head += ["Dice of the final mask: lowest (median)", "final Dice at least 0.98", "below"]
    return markdown_table(head, rows)


def scan_table(value: Mapping[str, float]) -> str:
    """Stages of a whole scan."""
    total = value["everything"]
    known = ("reading", "brain extraction", "bias field", "smoothing", "resampling", "guide", "loop", "resampling back")
    parts = {name: value[name] for name in (*known, "files and overview")}
    parts["the rest"] = total - sum(parts.values())
    parts["… of the loop: network"], parts["… of the loop: quantiles"] = value["network"], value["quantiles"]
    rows = [[name, f"{seconds:.1f}", f"{100 * seconds / total:.0f} %"] for name, seconds in parts.items()]
    return markdown_table(["stage", "seconds", "share"], [*rows, ["everything", f"{total:.1f}", "100 %"]])


def growth_table(value: Mapping[str, Any]) -> str:
    """Rows for voxels, steps and scans at once."""
    rows = []
    for row in value["voxels"]:
        rows.append(["a pass", f"{row['voxels'] / 1e6:.2f} million voxels", f"{row['accelerated']:.3f}"])
    for row in value["steps"]:
        rows.append(["a scan", f"{row['n_steps']} steps, {row['passes']} passes", f"{row['seconds']:.1f}"])
    for row in value["scans"]:
        each = row["seconds"] / row["scans"]
        rows.append(["10 steps", f"{row['scans']} scans at once", f"{row['seconds']:.1f} ({each:.1f} a scan)"])
    return markdown_table(["of", "with", "seconds"], rows)


def compilers_table(value: Mapping[str, Mapping[str, float]]) -> str:
    """One row a form, compared with the first."""
    first = next(iter(value.values()))["seconds"]
    rows = [
        [name, f"{row['seconds']:.2f}", f"{row['seconds'] / first:.2f}", f"{row['largest_error']:.1e}"]
        for name, row in value.items()
    ]
    return markdown_table(
        ["form of the network", "seconds a pass", "time relative to the first", "largest error"], rows
    )


def floor_table(value: Mapping[str, Mapping[str, float]]) -> str:
    """The count of operations, then a row a precision."""
    rows = [[f"GFLOP, {name}", f"{gflop:.0f}"] for name, gflop in value["gflop"].items()]
    needed = value["gflop"]["accelerated, what the brain needs"]
    for name, seconds in value["seconds"].items():
        speed = value["gflop_per_second"][name]
        rows += [
            [f"{name}: GFLOP/s of a matrix product", f"{speed:.0f}"],
            [f"{name}: floor of a pass", f"{needed / speed:.2f} s"],
            [f"{name}: a pass", f"{seconds:.2f} s, {seconds * speed / needed:.1f} times the floor"],
        ]
    return markdown_table(["", ""], rows)


WRITERS = {
    "compilers": compilers_table,
    "floor": floor_table,
    "pass": pass_table,
    "time": time_table,
    "agreement": agreement_table,
    "scan": scan_table,
    "growth": growth_table,
}


def draw(measured: Mapping[str, Any], path: Path) -> None:
    """Three panels: cost of a pass against voxels, of a scan against steps, and against scans at once."""
    growth = measured["growth"]
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for name in ("plain", "fused upsampling", "accelerated", "accelerated, bfloat16"):
        points = [(row["voxels"] / 1e6, row[name]) for row in growth["voxels"]]
        panels[0].plot(*zip(*points, strict=True), marker="o", label=name)
    panels[0].set(xlabel="million voxels", ylabel="seconds a pass", xscale="log", yscale="log")
    panels[0].xaxis.set_minor_formatter("")
    panels[0].legend(fontsize=8)
    steps = growth["steps"]
    panels[1].plot([row["n_steps"] for row in steps], [row["seconds"] for row in steps], marker="o", label="loop")
    network = [row["network_seconds"] for row in steps]
    panels[1].plot([row["n_steps"] for row in steps], network, marker="o", label="network in it")
    panels[1].set(xlabel="steps of the sweep", ylabel="seconds a scan", ylim=(0, None))
    panels[1].legend(fontsize=8)
    together = growth["scans"]
    panels[2].plot([row["scans"] for row in together], [row["seconds"] for row in together], marker="o")
    panels[2].set(xlabel="scans at once (10 steps)", ylabel="seconds", ylim=(0, None))
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
