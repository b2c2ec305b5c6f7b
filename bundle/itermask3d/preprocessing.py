"""Raw scan to network grid and back, as flat compositions of MONAI transforms.

Order: load and check → brain mask on the scan's own grid → axes of the scanner, isotropic spacing → bias
field → robust normalisation inside the brain, zero outside → fixed grid centred on the brain → high-frequency guide.
Every geometric step is MONAI's and invertible, so ``monai.transforms.Invertd`` brings results back exactly.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, NibabelReader
from monai.transforms import (
    AsDiscreted,
    Compose,
    CropForegroundd,
    EnsureTyped,
    GaussianSmooth,
    InvertibleTransform,
    LoadImage,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandHistogramShiftd,
    ResizeWithPadOrCropd,
    SelectItemsd,
    SpatialResample,
)
from monai.utils import convert_to_tensor

from itermask3d.bias import BiasFieldCorrectd
from itermask3d.brain_extraction import BrainMaskd
from itermask3d.disturbance import Disturbances, RandDisturbd
from itermask3d.frequency import PUBLISHED_RADIUS_CYCLES_PER_MM, HighFrequencyd
from itermask3d.masking import MaskMixture, RandMaskd
from itermask3d.scan_features import measure_left_out
from itermask3d.scans import ScanError, require_same_grid

__all__ = [
    "AntiAliasd",
    "CheckBrainFitsd",
    "LoadScand",
    "RobustNormalized",
    "ScannerGridd",
    "check_scan",
    "disturbance_transforms",
    "inference_transforms",
    "load_volume",
    "sample_transforms",
    "scan_loader",
    "training_transforms",
]

READERS = ("PydicomReader", "ITKReader", "NibabelReader")
"""MONAI's readers, the first to be asked last."""

NIBABEL_SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")
"""Read by nibabel alone: ITK fills the missing part of a truncated file with zeros, without an error."""

BIAS_CORRECTIONS = ("none", "n4")

SAMPLE_KEYS = ("image", "brain_mask")
"""What training keeps of a prepared scan."""

FACTS = ("case", "path", "normalisation", "bias_field", "left_out", "brain_extraction", "inputs")
"""What stays in a sample beside its volumes."""

MIN_SIZE_VOXELS = 16
MIN_SLICES = 8
MIN_EXTENT_MM = 60.0
MAX_LABEL_VALUES = 20
MAX_EQUAL_NEIGHBOURS = 0.5
"""Scans measured here, 8-bit ones included, have at most 0.18 of neighbours equal; label maps at least 0.77."""


def check_scan(image: torch.Tensor, affine: np.ndarray, name: str) -> None:
    """Refuse what cannot be a 3D MR scan of a head.

    Args:
        image: the voxels as loaded, without channel axis.
        affine: voxel to millimetres, ``(4, 4)``.
        name: how the message calls the scan.

    Raises:
        ScanError: for another number of axes than three, NaN or infinite voxels, a constant image, a label map, a
            singular or non-finite affine, fewer than 16 voxels on an axis (8 where voxels are thick) or a field of
            view below 60 mm.
    """
    shape = tuple(image.shape)
    if image.ndim != 3 or min(shape) < 2:
        raise ScanError(f"'{name}' has shape {shape}; expected one 3D volume")
    linear = np.asarray(affine, dtype=float)[:3, :3]
    if not np.isfinite(affine).all() or abs(np.linalg.det(linear)) < 1e-6:
        raise ScanError(f"'{name}' has no usable affine; expected finite voxel axes that span a volume")
    extent = np.linalg.norm(linear, axis=0) * shape
    if extent.min() < MIN_EXTENT_MM or min(shape) < MIN_SLICES or sorted(shape)[1] < MIN_SIZE_VOXELS:
        raise ScanError(
            f"'{name}' has {' x '.join(map(str, shape))} voxels over {' x '.join(f'{v:.0f}' for v in extent)} mm; "
            f"expected a whole head (at least {MIN_EXTENT_MM:.0f} mm and {MIN_SIZE_VOXELS} voxels)"
        )
    bad = int((~torch.isfinite(image)).sum())
    if bad:
        raise ScanError(f"'{name}' holds {bad} NaN or infinite voxels; expected finite intensities")
    _check_values(image, name)


def _check_values(image: torch.Tensor, name: str) -> None:
    values, counts = torch.unique(image, return_counts=True)
    if len(values) == 1:
        raise ScanError(f"'{name}' is constant ({float(values[0]):g} everywhere); expected an MR scan")
    if len(values) <= MAX_LABEL_VALUES:
        raise ScanError(f"'{name}' holds only {len(values)} different values; expected an MR scan, not a label map")
    before, after = image[:-1], image[1:]
    inside = (before != values[counts.argmax()]) & (after != values[counts.argmax()])
    equal = float((before == after)[inside].float().mean())
    if equal > MAX_EQUAL_NEIGHBOURS:
        raise ScanError(f"'{name}' has {equal:.0%} of neighbouring voxels equal; expected an MR scan, not a label map")


def scan_loader() -> LoadImage:
    """MONAI's loader over :data:`READERS`, without its warning about a GPU decoder that nothing here needs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
        return LoadImage(reader=READERS, image_only=True, dtype=np.float32)


def load_volume(path: str | Path, loader: LoadImage) -> MetaTensor:
    """Load one volume ``(D, H, W)`` with its affine; trailing axes of one element are dropped.

    Args:
        path: a file, or a folder with one DICOM series.
        loader: from :func:`scan_loader`.

    Raises:
        ScanError: if it is missing, truncated or of no known format.
    """
    if not Path(path).exists():
        raise ScanError(f"'{path}' does not exist; expected a file or a folder with one DICOM series")
    try:
        image = loader(path, reader=NibabelReader() if str(path).lower().endswith(NIBABEL_SUFFIXES) else None)
    except MemoryError:
        raise
    except Exception as error:  # every reader raises its own kinds for a damaged file
        raise ScanError(
            f"'{path}' cannot be read ({_last_line(error)}); expected a complete NIfTI, MGH, NRRD, MetaImage "
            "or DICOM file"
        ) from error
    while image.ndim > 3 and image.shape[-1] == 1:
        image = image[..., 0]
    return cast(MetaTensor, image)


class LoadScand(MapTransform):
    """Load and check the image, and its brain mask and label where the item names them.

    Each becomes a float32 :class:`monai.data.MetaTensor` ``(1, D, H, W)`` with its affine. Any format that MONAI's
    readers take: NIfTI, MGH, NRRD, MetaImage, a folder with one DICOM series.

    Args:
        keys: the scan; checked by :func:`check_scan`.
        companion_keys: masks to load when the item holds a path for them.

    Raises:
        ScanError: if a file is missing, truncated or of no known format, the scan fails a check, or a mask lies on
            another grid than the scan.
    """

    def __init__(self, keys: KeysCollection = "image", companion_keys: Sequence[str] = ("brain_mask", "label")) -> None:
        super().__init__(keys)
        self.companion_keys = tuple(companion_keys)
        self.loader = scan_loader()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        for key in self.keys:
            if not sample.get(key):
                raise ScanError(f"an item names no '{key}'; expected the path of a scan")
            image = load_volume(sample[key], self.loader)
            check_scan(image.as_tensor(), np.asarray(image.affine), str(sample[key]))
            sample["path"] = str(sample[key])
            sample[key] = _channel_first(image)
        for key in self.companion_keys:
            if sample.get(key) is not None:
                mask, image = load_volume(sample[key], self.loader), sample[self.keys[0]]
                require_same_grid(
                    key.replace("_", " "),
                    mask.shape,
                    np.asarray(mask.affine),
                    scan_shape=image.shape[1:],
                    scan_affine=np.asarray(image.affine),
                )
                sample[key] = _channel_first(mask)
        return sample


class AntiAliasd(MapTransform):
    """Smooth a scan before it is resampled to coarser voxels, so that fine detail does not alias.

    A Gaussian of standard deviation ``(target / spacing - 1) / 2`` voxels on each axis that is coarsened (the rule of
    scikit-image's ``rescale``); the identity on axes that are not.
    """

    def __init__(self, keys: KeysCollection, spacing_mm: float) -> None:
        super().__init__(keys)
        self.spacing_mm = spacing_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        for key in self.key_iterator(sample):
            image: MetaTensor = sample[key]
            sigma = [max(0.0, (self.spacing_mm / spacing - 1) / 2) for spacing in image.pixdim.tolist()]
            if any(value > 0 for value in sigma):
                sample[key] = GaussianSmooth(sigma=[max(value, 1e-3) for value in sigma])(image)
        return sample


class ScannerGridd(MapTransform, InvertibleTransform):
    """Resample to isotropic voxels whose axes are the scanner's right, front and up; invertible.

    The grid has the centre of the scan's field of view and covers it whole, however oblique the scan lies. A scan whose
    voxels lie on such a grid already is only reordered. MONAI's ``Spacing`` is not used: with ``diagonal`` and
    ``scale_extent`` it misplaces the grid of an oblique scan, and without ``scale_extent`` a 1 mm scan comes back from
    2 mm with a bias of a fifth of a millimetre.

    Args:
        keys: volumes on one grid, ``(1, D, H, W)``, resampled linearly, zero outside.
        spacing_mm: edge of a voxel.
    """

    def __init__(self, keys: KeysCollection, spacing_mm: float) -> None:
        super().__init__(keys)
        if not spacing_mm > 0:
            raise ValueError(f"spacing_mm must be positive, got {spacing_mm}")
        self.spacing_mm = spacing_mm
        self.resample = SpatialResample(mode="bilinear", padding_mode="zeros", align_corners=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        for key in self.key_iterator(sample):
            image: MetaTensor = sample[key]
            affine, size = scanner_grid(image.shape[1:], image.affine.numpy(force=True), spacing_mm=self.spacing_mm)
            sample[key] = self.resample(image, dst_affine=torch.from_numpy(affine), spatial_size=size)
        return sample

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Bring each key back to the grid that it came from."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            sample[key] = self.resample.inverse(sample[key])
        return sample


def scanner_grid(
    shape: Sequence[int], affine: np.ndarray, *, spacing_mm: float
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Affine and size of the smallest axis-aligned isotropic grid that covers a field of view, around its centre.

    Args:
        shape: voxels of the scan.
        affine: its voxels to RAS millimetres ``(4, 4)``.
        spacing_mm: edge of a voxel of the grid.
    """
    extent = np.abs(affine[:3, :3]) @ np.asarray(shape, dtype=float)
    size = np.ceil(extent / spacing_mm - 1e-3).astype(int)
    centre = affine @ [*((np.asarray(shape) - 1) / 2), 1.0]
    grid = np.diag([spacing_mm] * 3 + [1.0])
    grid[:3, 3] = centre[:3] - spacing_mm * (size - 1) / 2
    return grid, (int(size[0]), int(size[1]), int(size[2]))


class MeasureLeftOutd(MapTransform):
    """Measure, while the head is still there, whether the brain mask lacks a piece of brain.

    Args:
        keys: the image, ``(1, D, H, W)`` on an isotropic grid, with its head.
        spacing_mm: edge of a voxel.
        mask_key: the brain mask on the same grid.

    What :func:`itermask3d.scan_features.measure_left_out` found is stored under ``left_out``.
    """

    def __init__(self, keys: KeysCollection, spacing_mm: float, mask_key: str = "brain_mask") -> None:
        super().__init__(keys)
        self.spacing_mm = spacing_mm
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        brain = sample[self.mask_key][0].numpy(force=True) > 0.5
        for key in self.key_iterator(sample):
            image: MetaTensor = sample[key]
            sample["left_out"] = measure_left_out(image[0].numpy(force=True), brain, spacing_mm=self.spacing_mm)
        return sample


class RobustNormalized(MapTransform):
    r"""Normalise by the brain's median and interquartile range; zero outside the brain.

    .. math:: x = \operatorname{clip}\left(\frac{I - \mathrm{median}_B(I)}{\mathrm{IQR}_B(I) / 1.349}, \pm c\right)

    The scale equals the standard deviation for a normal distribution. Median and quartiles move little while a lesion
    or a fault holds less than a quarter of the brain, where mean and standard deviation follow it: so the unit of the
    error, and with it gamma, means the same on every scan.

    Args:
        keys: the image, and images that are to be brought to its scale.
        mask_key: the brain mask on the same grid.
        clip: bound :math:`c` in normalised units; keeps single bright vessels from ringing through the guide.

    The centre and scale are those of the first key, and are stored under ``normalisation`` as
    ``{"median": …, "scale": …}``.

    Raises:
        ScanError: if the brain has no contrast (an interquartile range of zero).
    """

    def __init__(self, keys: KeysCollection, mask_key: str = "brain_mask", clip: float = 5.0) -> None:
        super().__init__(keys)
        if not clip > 0:
            raise ValueError(f"clip must be positive, got {clip}")
        self.mask_key = mask_key
        self.clip = clip

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        inside = sample[self.mask_key] > 0.5
        values = sample[self.keys[0]][inside].double()
        if not values.numel():
            raise ScanError("the brain mask is empty on the network's grid; expected a brain")
        low, median, high = _quartiles(convert_to_tensor(values, track_meta=False))
        scale = (high - low) / 1.349
        if not scale > 0:
            raise ScanError(f"the brain has no contrast (interquartile range {high - low:g}); expected an MR scan")
        for key in self.key_iterator(sample):
            normalised = ((sample[key] - median) / scale).clamp(-self.clip, self.clip)
            sample[key] = torch.where(inside, normalised, torch.zeros_like(normalised))
        sample["normalisation"] = {"median": median, "scale": scale}
        return sample


def _quartiles(values: torch.Tensor) -> list[float]:
    """Where the values are; numpy selects faster than torch sorts, but on another device they would have to travel."""
    if values.device.type == "cpu":
        return [float(value) for value in np.percentile(values.numpy(), (25, 50, 75))]
    ranks = torch.tensor((0.25, 0.5, 0.75), dtype=values.dtype, device=values.device)
    return [float(value) for value in torch.quantile(values, ranks).tolist()]


class CheckBrainFitsd(MapTransform):
    """Refuse a brain that spans more than the network's grid, which would otherwise be cut off silently."""

    def __init__(self, keys: KeysCollection, spatial_size: Sequence[int], spacing_mm: float) -> None:
        super().__init__(keys)
        self.spatial_size = tuple(spatial_size)
        self.spacing_mm = spacing_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(dict(data)):
            brain = torch.nonzero(data[key][0].as_tensor() > 0.5)
            spans = (brain.max(0).values - brain.min(0).values + 1).tolist() if len(brain) else [0, 0, 0]
            if not all(0 < span <= size for span, size in zip(spans, self.spatial_size, strict=True)):
                raise ScanError(
                    f"the brain mask spans {' x '.join(f'{v * self.spacing_mm:.0f}' for v in spans)} mm (left-right, "
                    f"back-front, down-up); expected at most "
                    f"{' x '.join(f'{v * self.spacing_mm:.0f}' for v in self.spatial_size)} mm"
                )
        return dict(data)


def inference_transforms(
    *,
    spacing_mm: float = 2.0,
    spatial_size: Sequence[int] = (80, 96, 80),
    brain_extraction: str = "auto",
    bias_correction: str = "none",
    clip: float = 5.0,
    with_label: bool = False,
    keep_label: bool = False,
    check_fit: bool = True,
) -> Compose:
    """Compose a raw scan's way to the network's grid; the inferer adds the guide.

    Args:
        spacing_mm: isotropic spacing of the network's grid.
        spatial_size: its size in voxels; each a multiple of 16.
        brain_extraction: see :mod:`itermask3d.brain_extraction`.
        bias_correction: ``"n4"`` divides by the bias field, see :mod:`itermask3d.bias`; ``"none"`` leaves it.
        clip: see :class:`RobustNormalized`.
        with_label: bring a ground-truth ``label`` to the network's grid as well.
        keep_label: load the ``label`` of items that have one and leave it on the scan's own grid, for evaluation.
        check_fit: refuse a brain larger than the grid rather than crop it.

    Returns:
        Transforms from an item with paths to ``image`` (normalised) and ``brain_mask``, both ``(1, *spatial_size)``.
    """
    if bias_correction not in BIAS_CORRECTIONS:
        raise ValueError(f"bias_correction = '{bias_correction}'; expected one of {', '.join(BIAS_CORRECTIONS)}")
    masks = ["brain_mask", "label"] if with_label else ["brain_mask"]
    keys = ["image", *masks]
    labels = ("label",) if with_label or keep_label else ()
    return Compose(
        [
            LoadScand(companion_keys=("brain_mask", *labels)),
            BrainMaskd(method=brain_extraction),
            AntiAliasd("image", spacing_mm=spacing_mm),
            ScannerGridd(keys, spacing_mm=spacing_mm),
            AsDiscreted(masks, threshold=0.5),
            MeasureLeftOutd("image", spacing_mm),
            *([BiasFieldCorrectd("image", spacing_mm)] if bias_correction == "n4" else []),
            RobustNormalized("image", clip=clip),
            *([CheckBrainFitsd("brain_mask", spatial_size, spacing_mm)] if check_fit else []),
            CropForegroundd(keys, source_key="brain_mask", allow_smaller=True),
            ResizeWithPadOrCropd(keys, spatial_size=spatial_size),
            EnsureTyped(keys, dtype=torch.float32),
            SelectItemsd([*keys, *labels, *FACTS], allow_missing_keys=True),
        ]
    )


def training_transforms(
    *,
    spacing_mm: float = 2.0,
    spatial_size: Sequence[int] = (80, 96, 80),
    brain_extraction: str = "auto",
    bias_correction: str = "none",
    radius_cycles_per_mm: float = PUBLISHED_RADIUS_CYCLES_PER_MM,
    clip: float = 5.0,
    augment: bool = True,
    mixture: MaskMixture | None = None,
    disturbances: Disturbances | None = None,
) -> Compose:
    """Compose raw scan to training sample: ``image``, ``brain_mask``, ``high_frequency``, ``mask``.

    Everything before the first random transform can be cached, and is what :mod:`itermask3d.packed` keeps.

    Args:
        spacing_mm: see :func:`inference_transforms`.
        spatial_size: grid of a training sample; the little that a large brain has outside is cropped.
        brain_extraction, bias_correction: see :func:`inference_transforms`.
        radius_cycles_per_mm, clip, augment, mixture, disturbances: see :func:`sample_transforms`.
    """
    return Compose(
        [
            inference_transforms(
                spacing_mm=spacing_mm,
                spatial_size=spatial_size,
                brain_extraction=brain_extraction,
                bias_correction=bias_correction,
                clip=clip,
                check_fit=False,
            ),
            SelectItemsd(SAMPLE_KEYS),
            sample_transforms(
                spacing_mm=spacing_mm,
                radius_cycles_per_mm=radius_cycles_per_mm,
                clip=clip,
                augment=augment,
                mixture=mixture,
                disturbances=disturbances,
            ),
        ]
    ).flatten()


def sample_transforms(
    *,
    spacing_mm: float = 2.0,
    radius_cycles_per_mm: float = PUBLISHED_RADIUS_CYCLES_PER_MM,
    clip: float = 5.0,
    augment: bool = True,
    mixture: MaskMixture | None = None,
    disturbances: Disturbances | None = None,
) -> Compose:
    """Compose a prepared scan, ``image`` and ``brain_mask``, to a training sample, on the device that it lies on.

    With ``augment``: left-right flips, small rotations and scalings, and monotone changes of contrast, after which the
    scan is normalised again as a real one would be.

    Args:
        spacing_mm: edge of a voxel.
        radius_cycles_per_mm: radius of the guide.
        clip: see :class:`RobustNormalized`.
        augment: off for validation.
        mixture: training masks; ``None`` hides the whole brain (the fixed task of validation).
        disturbances: what the network shall not paint back, see :mod:`itermask3d.disturbance`; then the sample has
            ``target`` and ``disturbed`` as well. ``None`` disturbs nothing, as published.
    """
    keys = list(SAMPLE_KEYS)
    augmentation = [
        RandFlipd(keys, spatial_axis=0, prob=0.5),
        RandAffined(
            keys, prob=0.5, rotate_range=[0.15] * 3, scale_range=[0.1] * 3, mode="bilinear", padding_mode="zeros"
        ),
        AsDiscreted("brain_mask", threshold=0.5),
        RandAdjustContrastd("image", prob=0.3, gamma=(0.75, 1.35)),
        RandHistogramShiftd("image", prob=0.2, num_control_points=(6, 10)),
        RobustNormalized("image", clip=clip),
    ]
    disturbing = disturbances is not None and disturbances.probability > 0
    return Compose(
        [
            *(augmentation if augment else []),
            *(disturbance_transforms(spacing_mm, disturbances, clip) if disturbances and disturbing else []),
            HighFrequencyd("image", spacing_mm=spacing_mm, radius_cycles_per_mm=radius_cycles_per_mm),
            RandMaskd("brain_mask", spacing_mm=spacing_mm, mixture=mixture or MaskMixture(blob=0, field=0, full=1)),
            SelectItemsd([*keys, "high_frequency", "mask", *(("target", "disturbed") if disturbing else ())]),
        ]
    )


def disturbance_transforms(spacing_mm: float, disturbances: Disturbances, clip: float = 5.0) -> list[MapTransform]:
    """Disturb a normalised scan, then normalise it again, and its target with it, as a scan with a lesion would be."""
    return [
        RandDisturbd("image", spacing_mm, disturbances),
        RobustNormalized(("image", "target"), clip=clip),
    ]


def _channel_first(image: MetaTensor) -> MetaTensor:
    # The affine is all that is kept of the header: scans of different formats must fit into one batch.
    return MetaTensor(image.as_tensor()[None].float(), affine=image.affine)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]
