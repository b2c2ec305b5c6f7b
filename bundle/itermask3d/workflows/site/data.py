"""From somebody's raw scans to what a training needs to know of them: brain masks, features, thumbnails, a split."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, ResizeWithPadOrCropd
from tqdm import tqdm

from itermask3d.files.discovery import FoundScan
from itermask3d.files.identity import input_files, source_files, source_of
from itermask3d.files.plain import as_json_values
from itermask3d.files.scans import ScanError, bare_scan_errors, voxel_volume_ml
from itermask3d.files.writing import replaced, save_nifti
from itermask3d.preprocessing.brain_extraction import BrainMaskd, is_skull_stripped
from itermask3d.preprocessing.grid import CheckBrainFitsd
from itermask3d.preprocessing.load import LoadScand
from itermask3d.preprocessing.measure import measured_features
from itermask3d.preprocessing.pipeline import inference_transforms
from itermask3d.workflows.site.data_check import Finding, Level, MeasuredScan

__all__ = [
    "CONTRASTS",
    "Measurement",
    "brain_extraction_for",
    "derived_spacing",
    "features_of",
    "keep_brain_mask",
    "split_by_subject",
    "subject_of",
]

CONTRASTS = ("T1", "T2", "FLAIR", "other")

FIELD_MM = (192.0, 224.0, 192.0)
"""Holds any brain; the grid on which scans are measured."""

THUMBNAIL = (48, 56, 48)
"""Voxels of 4 mm over that field."""

SHARES = {"validation": 0.1, "calibration": 0.15, "test": 0.1}
"""Of the people; the rest is for training."""

FIRST_WITH_TEST = 8
"""With fewer people none are kept for a test: there is not enough to train on."""

LEAST_SPACING_MM = 2.0


class Measurement:
    """Measure scans one by one and keep what was found, so that nothing is done twice.

    Args:
        folder: of the kept records and, in ``masks``, the brain masks; made if absent.
        spacing_mm: of the network's grid.
        contrast: one of :data:`CONTRASTS`; it chooses the tool for scans with the head on.
        brain_extraction: a method of :mod:`itermask3d.preprocessing.brain_extraction`; ``auto`` as the contrast asks.
        bias_correction: see :func:`itermask3d.preprocessing.pipeline.inference_transforms`.
        subject: regular expression whose first group names the person in a case; ``None`` for BIDS names.
        network_size: voxels of a network's grid; then every scan is kept on it, see :meth:`prepared`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        spacing_mm: float,
        contrast: str = "T1",
        brain_extraction: str = "auto",
        bias_correction: str = "n4",
        subject: str | None = None,
        network_size: Sequence[int] | None = None,
    ) -> None:
        self.folder, self.masks = folder / "records", folder / "masks"
        for path in (self.folder, self.masks):
            path.mkdir(parents=True, exist_ok=True)
        self.settings: dict[str, Any] = {"spacing_mm": spacing_mm, "bias_correction": bias_correction}
        self.onto_network: Compose | None = None
        if network_size is not None:
            self.settings["network_size"] = list(network_size)
            self.onto_network = _onto_network(network_size, spacing_mm)
        self.contrast, self.brain_extraction, self.subject = contrast, brain_extraction, subject
        self.prepare = inference_transforms(
            spacing_mm=spacing_mm,
            spatial_size=[round(extent / spacing_mm) for extent in FIELD_MM],
            brain_extraction="provided",
            bias_correction=bias_correction,
        )

    def item(self, scan: FoundScan) -> dict[str, Any]:
        """What training takes: the scan, its name and its kept brain mask."""
        return {**scan.item, "brain_mask": str(self.masks / f"{scan.case}.nii.gz")}

    def prepared(self, case: str) -> dict[str, torch.Tensor]:
        """``image`` and ``brain_mask`` of a measured scan on the network's grid, float32 ``(1, D, H, W)``, exactly as a
        run of the network gets them."""
        with np.load(self.folder / f"{case}.npz") as data:
            return {name: torch.from_numpy(data[name].astype(np.float32)) for name in ("image", "brain_mask")}

    def measure_all(self, scans: Sequence[FoundScan], workers: int = 1) -> list[MeasuredScan | Finding]:
        """:meth:`measure` for many, in so many processes, with a bar that tells the time left."""
        bar = {"total": len(scans), "unit": "scan", "desc": "brain masks and features"}
        if workers <= 1 or len(scans) < 2:
            return [self.measure(scan) for scan in tqdm(scans, **bar)]
        threads = max(1, (os.cpu_count() or 1) // workers)
        with ProcessPoolExecutor(
            min(workers, len(scans)), get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
        ) as pool:
            return list(tqdm(pool.map(self.measure, scans), **bar))

    def measure(self, scan: FoundScan) -> MeasuredScan | Finding:
        """What is known of a scan, or why it cannot be used."""
        try:
            with bare_scan_errors():
                return self._kept(scan) or self._keep(scan)
        except ScanError as reason:
            return Finding("unusable", Level.UNUSABLE, str(reason), case=scan.case)

    def _inputs(self, scan: FoundScan) -> dict[str, Any]:
        return {"files": input_files(self.item(scan)), "given": input_files(scan.item), **self.settings}

    def _kept(self, scan: FoundScan) -> MeasuredScan | None:
        path = self.folder / f"{scan.case}.npz"
        if not path.is_file():
            return None
        with np.load(path) as data:
            record, thumbnail = json.loads(str(data["record"])), data["thumbnail"].astype(np.float32)
        inputs, now = record.pop("inputs"), as_json_values(self._inputs(scan))
        if inputs.get("given") != now["given"]:
            (self.masks / f"{scan.case}.nii.gz").unlink(missing_ok=True)
        if inputs != now:
            return None
        subject = subject_of(scan.case, self.subject)
        spans = tuple(record.pop("spans_mm"))
        return MeasuredScan(case=scan.case, subject=subject, thumbnail=thumbnail, spans_mm=spans, **record)

    def _keep(self, scan: FoundScan) -> MeasuredScan:
        item: dict[Hashable, Any] = {key: value for key, value in scan.item.items() if key != "brain_mask"}
        loaded = LoadScand()(item)
        raw, oriented = loaded["image"], bool(loaded["native"].meta["known_sides"])
        mask = self.masks / f"{scan.case}.nii.gz"
        record = self.folder / f"{scan.case}.npz"
        method = self.brain_extraction
        if method == "auto" and scan.brain_mask is None:
            method = brain_extraction_for(self.contrast, raw)
        if not mask.exists():
            keep_brain_mask(scan.item, method, mask)
        sample, features = features_of(self.item(scan), self.prepare)
        volumes = self._on_network(sample)
        brain = np.argwhere(np.asarray(sample["brain_mask"][0]) > 0.5)
        spans = (np.ptp(brain, axis=0) + 1) * self.settings["spacing_mm"]
        found: dict[str, Any] = {
            "inputs": self._inputs(scan),
            "file_sha256": _digest_of_files(source_files(source_of(item))),
            "voxel_sha256": _digest_of_voxels(raw),
            "features": features,
            "spans_mm": spans.tolist(),
            "oriented": oriented,
            "extra": {"voxels_mm": raw.pixdim.tolist(), "shape": list(raw.shape[1:]), "brain_extraction": method},
        }
        found["extra"]["mask_sha256"] = _digest_of_files([mask])
        thumbnail = torch.nn.functional.adaptive_avg_pool3d(sample["image"].as_tensor(), THUMBNAIL)[0].numpy()
        with replaced(record) as partial:
            np.savez_compressed(partial, record=json.dumps(found), thumbnail=thumbnail.astype(np.float16), **volumes)
        kept = self._kept(scan)
        if kept is None:
            raise RuntimeError(f"the record of '{scan.case}' in '{record}' is not what was just written there")
        return kept

    def _on_network(self, sample: Mapping[Hashable, Any]) -> dict[str, np.ndarray]:
        """Image and brain mask on the network's grid; nothing where none was asked for."""
        if self.onto_network is None:
            return {}
        moved = self.onto_network({key: sample[key] for key in ("image", "brain_mask")})
        return {
            "image": moved["image"].numpy(force=True).astype(np.float32),
            "brain_mask": moved["brain_mask"].numpy(force=True) > 0.5,
        }


def _onto_network(size: Sequence[int], spacing_mm: float) -> Compose:
    """The last steps of the preprocessing, for another size of the grid."""
    keys = ["image", "brain_mask"]
    return Compose(
        [
            CheckBrainFitsd("brain_mask", size, spacing_mm),
            CropForegroundd(keys, source_key="brain_mask", allow_smaller=True),
            ResizeWithPadOrCropd(keys, spatial_size=list(size)),
        ]
    )


def brain_extraction_for(contrast: str, image: MetaTensor) -> str:
    """The tool for a scan ``(1, D, H, W)`` without a mask: none where it is stripped, deepbet for T1, else hd_bet."""
    voxel_ml = voxel_volume_ml(image.affine.numpy(force=True))
    if is_skull_stripped(image[0].numpy(force=True), voxel_ml=voxel_ml):
        return "none"
    return "deepbet" if contrast == "T1" else "hd_bet"


def keep_brain_mask(item: Mapping[Any, Any], method: str, target: Path) -> None:
    """Make the brain mask of one scan and write it on the scan's own grid, whole or not at all.

    Raises:
        ScanError: if the scan cannot be read or no brain is found.
    """
    sample = BrainMaskd(method=method)(LoadScand()({**item}))
    mask = sample["brain_mask"]
    save_nifti(np.asarray(mask[0] > 0.5).astype(np.uint8), np.asarray(mask.affine, dtype=float), target)


def features_of(item: Mapping[str, Any], prepare: Compose) -> tuple[dict[Hashable, Any], dict[str, float]]:
    """A scan on the network's grid, and all its features as a run measures them.

    Args:
        item: with paths.
        prepare: of :func:`itermask3d.preprocessing.pipeline.inference_transforms`.

    Returns:
        The prepared sample, and the features of :mod:`itermask3d.preprocessing.scan_features` by name.
    """
    sample = prepare({**item})
    return sample, dict(measured_features(sample, prepare).values)


def derived_spacing(voxels_mm: Sequence[Sequence[float]]) -> float:
    """Edge of the network's voxels for scans with these voxels: 2 mm, or what half of the scans resolve.

    The cube root of a voxel's volume counts, in steps of half a millimetre, so that thick slices with a fine plane are
    not taken for coarse scans.
    """
    edges = [float(np.prod(edges)) ** (1 / 3) for edges in voxels_mm]
    return max(LEAST_SPACING_MM, float(np.ceil(2 * np.median(edges) - 0.1) / 2))


def subject_of(case: str, pattern: str | None = None) -> str:
    """The person in a case's name.

    Args:
        case: the name.
        pattern: regular expression whose first group is the person; without one the part ``sub-…`` of a BIDS name,
            else the whole case.

    Raises:
        ScanError: if a pattern was given and the case does not match it.
    """
    found = re.search(pattern or r"(?:^|_)(sub-[A-Za-z0-9]+)", case)
    if found is None and pattern is not None:
        raise ScanError(f"the case '{case}' does not match the subject pattern '{pattern}'; expected a person in it")
    return found[1] if found else case


def split_by_subject(
    groups: Sequence[Sequence[str]], *, seed: int, shares: Mapping[str, float] | None = None
) -> dict[str, list[str]]:
    """Divide people, with all their scans, by a seed.

    Args:
        groups: cases of one person each.
        seed: of the order; the same people and seed give the same split, in whatever order they come.
        shares: of the people for each subset but ``train``; a subset that is named gets at least one person.

    Returns:
        Sorted cases of ``train``, ``validation``, ``calibration`` and, from eight people on, ``test``.

    Raises:
        ScanError: if fewer than two people are left to train on.
    """
    shares = dict(SHARES if shares is None else shares)
    if len(groups) < FIRST_WITH_TEST:
        shares.pop("test", None)
    ordered = sorted(sorted(group) for group in groups)
    order = [ordered[index] for index in np.random.default_rng(seed).permutation(len(ordered))]
    splits: dict[str, list[str]] = {"train": []}
    for subset, share in shares.items():
        n = max(1, round(share * len(groups))) if share > 0 else 0
        splits[subset] = sorted(case for group in order[:n] for case in group)
        order = order[n:]
    if len(order) < 2:
        raise ScanError(f"{len(groups)} people leave {len(order)} to train on; expected at least two")
    splits["train"] = sorted(case for group in order for case in group)
    return {subset: cases for subset, cases in splits.items() if cases}


def _digest_of_files(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _digest_of_voxels(image: MetaTensor) -> str:
    """Of the voxels in the canonical order of their axes: a copy in another format or orientation has the same."""
    canonical = nib.as_closest_canonical(nib.Nifti1Image(image[0].numpy(force=True), image.affine.numpy(force=True)))
    voxels = np.ascontiguousarray(canonical.dataobj, dtype=np.float32)
    return hashlib.sha256(str(voxels.shape).encode() + voxels.tobytes()).hexdigest()
