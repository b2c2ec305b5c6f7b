"""Show what training changes in a scan: each ingredient of the augmentation alone, and whole samples.

    python scripts/show_variation.py [--scan T1.nii.gz] [--output docs/variation.png]

Without --scan the packaged template serves. Every panel names its ingredient and strength, the middle and the upper end
of the range that training draws from.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from itermask3d.files.scans import ScanError
from itermask3d.inference.results import RESEARCH_USE
from itermask3d.preprocessing.normalise import robust_normalised
from itermask3d.preprocessing.pipeline import inference_transforms
from itermask3d.simulation.acquisition import Acquisition, AcquisitionRanges, acquire
from itermask3d.simulation.demo import packaged_scan
from itermask3d.simulation.mask_change import MaskChange, MaskRanges, change_mask
from itermask3d.training.variation import RandVaryd, Variation

SPACING_MM = 2.0
SIZE = (80, 96, 80)
SHOWN = (-2.8, 2.8)
COLUMNS = 6

Panel = tuple[str, torch.Tensor, torch.Tensor]


def main() -> None:
    arguments = parse()
    try:
        image, brain = prepared(arguments.scan or str(packaged_scan()))
    except (ScanError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    panels = list(all_panels(image, brain, arguments.samples, arguments.seed))
    draw(panels, Path(arguments.output))
    print(f"{len(panels)} panels in {arguments.output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=RESEARCH_USE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scan", help="a T1 scan (default: the packaged template)")
    parser.add_argument("--samples", type=int, default=12, help="whole samples as training draws them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="out/variation.png")
    return parser.parse_args()


def prepared(path: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised image and boolean brain, ``(D, H, W)``."""
    prepare = inference_transforms(spacing_mm=SPACING_MM, spatial_size=SIZE, bias_correction="n4", check_fit=False)
    sample: Any = prepare({"image": path, "case": "scan"})
    return sample["image"].as_tensor()[0], sample["brain_mask"].as_tensor()[0] > 0.5


def all_panels(image: torch.Tensor, brain: torch.Tensor, samples: int, seed: int) -> Iterator[Panel]:
    yield "as it is", image, brain
    for title, change in ingredients():
        yield title, *change(image, brain)
    vary = RandVaryd("image", SPACING_MM, Variation())
    vary.set_random_state(seed=seed)
    for index in range(samples):
        drawn = vary({"image": image[None], "brain_mask": brain[None].float()})
        mask = drawn["brain_mask"][0] > 0.5
        yield f"sample {index + 1}", normalised(drawn["image"][0], mask), mask


def ingredients() -> Iterator[tuple[str, Callable[..., tuple[torch.Tensor, torch.Tensor]]]]:
    """Each ingredient at the middle and the upper end of its range."""
    ranges, masks = AcquisitionRanges(), MaskRanges()
    for name in ("log_gamma", "curve", "drift", "strong_bias", "blur_mm", "thickness_mm", "sharpening", "ringing"):
        yield from acquired(name, getattr(ranges, name))
    for name in ("noise", "denoising"):
        yield from acquired(name, getattr(ranges, name))
    for value in masks.margin_mm:
        yield f"brain mask {value:+.1f} mm", masked(MaskChange(margin_mm=value, rim=-1.0))
    yield f"field of view cut by {masks.cut_mm[1]:.0f} mm", masked(MaskChange(cut_mm=masks.cut_mm[1], axis=2))


def acquired(name: str, ends: tuple[float, float]) -> Iterator[tuple[str, Callable[..., Any]]]:
    strengths = ends if ends[0] < 0 else (sum(ends) / 2, ends[1])
    field = name.removeprefix("strong_")
    for strength in strengths:
        acquisition = Acquisition(**{field: strength}, axis=2, seed=1)

        def change(image: torch.Tensor, brain: torch.Tensor, drawn: Acquisition = acquisition) -> Any:
            return normalised(acquire(image, brain, drawn, spacing_mm=SPACING_MM), brain), brain

        yield f"{field.replace('_mm', '').replace('_', ' ')} {strength:.2g}", change


def masked(change: MaskChange) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    def apply(image: torch.Tensor, brain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        changed, mask = change_mask(image, brain, change, spacing_mm=SPACING_MM)
        return normalised(changed, mask), mask

    return apply


def normalised(image: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
    return robust_normalised(image[None, None], brain[None, None])[0][0, 0]


def draw(panels: list[Panel], output: Path) -> None:
    """A sagittal slice over an axial one for each panel."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = -(-len(panels) // COLUMNS)
    figure, axes = pyplot.subplots(rows, COLUMNS, figsize=(2.1 * COLUMNS, 4.0 * rows), facecolor="black", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for (title, image, brain), axis in zip(panels, axes.flat, strict=False):
        seen = np.where(brain.numpy(), image.numpy(), SHOWN[0])
        sagittal, axial = seen[SIZE[0] // 2 - 5].T, seen[:, :, SIZE[2] // 2 + 2].T
        width = max(sagittal.shape[1], axial.shape[1])
        both = [
            np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=SHOWN[0]) for part in (axial, sagittal)
        ]
        axis.imshow(np.concatenate(both), origin="lower", cmap="gray", vmin=SHOWN[0], vmax=SHOWN[1])
        axis.set_title(title, color="white", fontsize=9)
    figure.tight_layout(pad=0.3)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=46, facecolor="black")
    pyplot.close(figure)


if __name__ == "__main__":
    main()
