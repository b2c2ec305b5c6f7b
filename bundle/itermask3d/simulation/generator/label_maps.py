"""Label maps in files, brought to the network's grid as mixtures of tissues: the cached part of a generated scan."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, MapTransform, ResizeWithPadOrCropd

from itermask3d.files.scans import ScanError, list_scans, require_same_grid, split_scans
from itermask3d.preprocessing.anatomy import place_names
from itermask3d.preprocessing.bias import estimate_bias_field
from itermask3d.preprocessing.grid import AntiAliasd, ScannerGridd
from itermask3d.preprocessing.load import load_volume
from itermask3d.simulation.generator.tissues import Tissue, brain_of, guess_scheme, refine, tissues_of, two_tissues

__all__ = ["TEMPLATE", "LoadTissuesd", "label_items", "require_label_maps", "template_mixture", "tissue_transforms"]

TEMPLATE = "icbm152"
"""Names the tissue maps of the ICBM152 template, which nilearn ships, in place of a folder of label maps."""

PLACES = {
    "cerebellum": (Tissue.CEREBELLAR_GREY, Tissue.CEREBELLAR_WHITE),
    "brainstem": (Tissue.BRAINSTEM, Tissue.BRAINSTEM),
    "thalamus": (Tissue.THALAMUS, Tissue.WHITE),
    "basal ganglia": (Tissue.STRIATUM, Tissue.WHITE),
    "hippocampus and amygdala": (Tissue.LIMBIC, Tissue.WHITE),
    "insular region": (Tissue.LIMBIC_CORTEX, Tissue.WHITE),
}
"""Grey and white matter of the template by the coarse place; elsewhere cortex and white matter."""


def label_items(
    source: str | Path | Sequence[str | Path],
    *,
    split_file: str | Path | None = None,
    subset: str | None = "train",
    scans: Sequence[Mapping[str, Any]] = (),
    extra: str | Path | Sequence[str | Path] | None = None,
) -> list[dict[str, Any]]:
    """List label maps as items, each with the scan that it was made of where that is known.

    Args:
        source: as for :func:`itermask3d.files.scans.list_scans`, or :data:`TEMPLATE`.
        split_file, subset: keep these cases, see :func:`itermask3d.files.scans.split_scans`; a map's case is its file
            name. Without a subset all are kept. The template is nobody's and is kept always.
        scans: items of T1-weighted scans; the one with a map's case gives the map its sulci and, where it names one,
            its brain mask. See :func:`itermask3d.simulation.generator.tissues.refine`.
        extra: further maps of people who are in no subset, such as those that SynthSeg was trained on.

    Returns:
        Items with ``labels`` (path), ``case`` and, where known, ``image`` and ``brain_mask``.

    Raises:
        ScanError: if nothing is left, or an extra map has the name of a case of the split.
    """
    if str(source) == TEMPLATE:
        items: list[dict[str, Any]] = [{"image": TEMPLATE, "case": TEMPLATE}]
    else:
        listed = list_scans(source)
        items = split_scans(listed, split_file, subset) if subset else listed
    further = list_scans(extra) if extra else []
    if further and split_file:
        named = {case for cases in _all_subsets(split_file) for case in cases}
        shared = sorted(named & {item["case"] for item in further})
        if shared:
            raise ScanError(f"extra label map '{shared[0]}' is a case of the split file; expected maps of other people")
    known = {item["case"]: item for item in scans}
    return [_label_item(item, known.get(item["case"], {})) for item in [*items, *further]]


def require_label_maps(
    source: str | Path | Sequence[str | Path],
    *,
    split_file: str | Path | None = None,
    subsets: Sequence[str] = ("train", "validation"),
    extra: str | Path | Sequence[str | Path] | None = None,
) -> None:
    """Stop a training that lacks its label maps with one sentence; arguments as for :func:`label_items`.

    Raises:
        SystemExit: with that sentence.
    """
    try:
        for subset in subsets:
            label_items(source, split_file=split_file, subset=subset, extra=extra)
    except ScanError as error:
        raise SystemExit(f"error: {error}") from error


def _label_item(item: Mapping[str, Any], scan: Mapping[str, Any]) -> dict[str, Any]:
    companions = {key: scan[key] for key in ("image", "brain_mask") if scan.get(key)}
    return {"labels": str(item["image"]), "case": item["case"], **companions}


def _all_subsets(split_file: str | Path) -> list[list[str]]:
    return [list(cases) for cases in json.loads(Path(split_file).read_text()).values()]


class LoadTissuesd(MapTransform):
    """Load a label map and bring it to the network's grid as a mixture of tissues.

    Input: an item of :func:`label_items`. Output: ``tissues`` ``(3, D, H, W)`` and ``brain_mask`` ``(1, D, H, W)`` on
    isotropic voxels along the scanner's axes, and ``case``.

    Args:
        keys: path of the label map.
        spacing_mm: of the grid.
        bias_correction: ``"n4"`` corrects the scan that refines the map.

    Raises:
        ScanError: for a file that cannot be read, labels of no known scheme, or a scan on another grid.
    """

    def __init__(self, keys: str = "labels", *, spacing_mm: float, bias_correction: str = "n4") -> None:
        super().__init__(keys)
        self.spacing_mm = float(spacing_mm)
        self.bias_correction = bias_correction

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        path = str(item[self.keys[0]])
        if path == TEMPLATE:
            tissues, brain = template_mixture(self.spacing_mm)
            return {"tissues": tissues, "brain_mask": brain, "case": item["case"]}
        volumes = self._volumes(item, path)
        for key in ("shares", "brain_mask", "image"):
            if key in volumes:
                volumes[key] = _to_grid({key: volumes[key]}, self.spacing_mm)[key]
        return {**self._mixture(volumes), "case": item["case"]}

    def _volumes(self, item: Mapping[Hashable, Any], path: str) -> dict[str, MetaTensor]:
        """Shares of all tissues, brain mask and, where known, the scan; cut to the brain, on the map's own voxels."""
        labels = load_volume(path)
        affine, codes = np.asarray(labels.affine), labels.numpy()
        tissues = tissues_of(codes, guess_scheme(codes))
        image, mask = (self._companion(item, key, codes.shape, affine) for key in ("image", "brain_mask"))
        spacing_mm = np.linalg.norm(affine[:3, :3], axis=0).tolist()
        solid = brain_of(tissues, spacing_mm=spacing_mm) if mask is None else mask > 0.5
        box = _box(solid, margin=4)
        shares = np.stack([tissues[box] == tissue for tissue in Tissue])
        shares[Tissue.OUTER_FLUID] |= (tissues[box] == Tissue.BACKGROUND) & solid[box]
        shares[Tissue.BACKGROUND] = False
        arrays = {"shares": shares, "brain_mask": solid[box][None]}
        if image is not None:
            arrays["image"] = image[box][None]
        moved = torch.from_numpy(affine @ _shift([part.start for part in box]))
        return {
            key: MetaTensor(torch.from_numpy(array.astype(np.float32)), affine=moved) for key, array in arrays.items()
        }

    def _companion(
        self, item: Mapping[Hashable, Any], key: str, shape: Sequence[int], affine: np.ndarray
    ) -> np.ndarray | None:
        if key not in item:
            return None
        volume = load_volume(item[key])
        name = {"image": "scan of a label map", "brain_mask": "brain mask of a label map"}[key]
        require_same_grid(name, volume.shape, np.asarray(volume.affine), scan_shape=shape, scan_affine=affine)
        return np.asarray(volume.numpy())

    def _mixture(self, volumes: Mapping[str, MetaTensor]) -> dict[Hashable, Any]:
        affine = volumes["shares"].affine
        mixture = two_tissues(volumes["shares"].as_tensor())
        brain = volumes["brain_mask"].as_tensor() > 0.5
        if "image" in volumes:
            image, solid = volumes["image"].numpy()[0], brain[0].numpy()
            if self.bias_correction == "n4":
                image = image / estimate_bias_field(image, solid, spacing_mm=self.spacing_mm)
            mixture = torch.from_numpy(refine(mixture.numpy(), image, solid))
        return {
            "tissues": MetaTensor(mixture, affine=affine),
            "brain_mask": MetaTensor(brain.float(), affine=affine),
        }


def template_mixture(spacing_mm: float) -> tuple[MetaTensor, MetaTensor]:
    """Tissues and brain mask of the ICBM152 template, from the maps in nilearn's package; nothing is downloaded.

    The maps know grey and white matter. Cerebellum, brainstem and deep grey matter come from coarse boxes, and all that
    is neither grey nor white is fluid, inside or around by its depth.

    Raises:
        ScanError: if nilearn is not installed.
    """
    try:
        from nilearn.datasets import load_mni152_gm_template, load_mni152_wm_template
    except ImportError as error:
        raise ScanError(
            "the template's tissue maps need nilearn; expected a folder of label maps, or nilearn installed"
        ) from error
    volumes = {
        "grey": load_mni152_gm_template(resolution=1),
        "white": load_mni152_wm_template(resolution=1),
    }
    sample = {
        key: MetaTensor(
            torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32))[None], affine=torch.from_numpy(image.affine)
        )
        for key, image in volumes.items()
    }
    sample = _to_grid(sample, spacing_mm)
    grey, white = (sample[key].numpy()[0] for key in volumes)
    affine = sample["grey"].affine
    solid = brain_of(np.where(grey + white > 0.3, Tissue.CORTEX, Tissue.BACKGROUND), spacing_mm=[spacing_mm] * 3)
    shares = _template_shares(grey, white, solid, affine.numpy())
    return (
        MetaTensor(two_tissues(torch.from_numpy(shares)), affine=affine),
        MetaTensor(torch.from_numpy(solid.astype(np.float32))[None], affine=affine),
    )


def _template_shares(grey: np.ndarray, white: np.ndarray, solid: np.ndarray, affine: np.ndarray) -> np.ndarray:
    voxels = np.argwhere(solid)
    places = np.array(place_names(voxels @ affine[:3, :3].T + affine[:3, 3]))
    where = tuple(voxels.T)
    shares = np.zeros((len(Tissue), *solid.shape), dtype=np.float32)
    parts = {"grey": grey[where], "white": white[where]}
    remainder = np.clip(1 - parts["grey"] - parts["white"], 0, 1)
    grey_class = np.full(len(voxels), int(Tissue.CORTEX))
    white_class = np.full(len(voxels), int(Tissue.WHITE))
    fluid_class = np.full(len(voxels), int(Tissue.OUTER_FLUID))
    for word, (its_grey, its_white) in PLACES.items():
        inside = np.char.find(places, word) >= 0
        grey_class[inside], white_class[inside] = its_grey, its_white
    fluid_class[np.char.find(places, "lateral ventricle") >= 0] = Tissue.VENTRICLE
    for classes, share in ((grey_class, parts["grey"]), (white_class, parts["white"]), (fluid_class, remainder)):
        np.add.at(shares, (classes, *where), share)
    return shares


def tissue_transforms(*, spacing_mm: float, spatial_size: Sequence[int], bias_correction: str = "n4") -> Compose:
    """An item of :func:`label_items` to ``tissues`` and ``brain_mask`` on the network's grid, without a random draw."""
    keys = ["tissues", "brain_mask"]
    return Compose(
        [
            LoadTissuesd(spacing_mm=spacing_mm, bias_correction=bias_correction),
            CropForegroundd(keys, source_key="brain_mask", allow_smaller=True, margin=2),
            ResizeWithPadOrCropd(keys, spatial_size=spatial_size),
        ]
    )


def _to_grid(volumes: dict[Any, MetaTensor], spacing_mm: float) -> dict[Any, MetaTensor]:
    """As :mod:`itermask3d.preprocessing.pipeline` brings a scan to the network's voxels."""
    smooth = AntiAliasd(list(volumes), spacing_mm=spacing_mm)(volumes)
    return ScannerGridd(list(volumes), spacing_mm=spacing_mm)(smooth)


def _box(solid: np.ndarray, *, margin: int) -> tuple[slice, ...]:
    """The part of the grid around a mask."""
    voxels = np.argwhere(solid)
    low, high = voxels.min(axis=0) - margin, voxels.max(axis=0) + margin + 1
    return tuple(slice(max(0, int(a)), int(b)) for a, b in zip(low, high, strict=True))


def _shift(start: Sequence[int]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = start
    return matrix
