"""A brain brought to the ICBM152 space by an affine map, found on intensities, so that coarse places can be named.

The template is the skull-stripped T1 that nilearn ships; nothing is loaded from elsewhere. One thread and every voxel
of a coarse grid: the same scan gives the same map.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813

__all__ = ["register_to_template", "template_folder"]

logger = logging.getLogger(__name__)


GRID_MM = 4.0
BINS = 32
MAX_ITERATIONS = 80
MARGIN_VOXELS = 2
"""Of the template's surroundings that count too: a brain's edge is what fits best."""

LEAST_GAIN = -0.01
"""How much worse the masks may overlap than at the start, in Dice: a lesion or a lost slab may pull a little."""

_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def template_folder() -> Path | None:
    """The folder in which nilearn keeps its copy of the ICBM152 template; ``None`` where it is not installed."""
    found = find_spec("nilearn")
    return None if found is None or found.origin is None else Path(found.origin).parent / "datasets" / "data"


def register_to_template(
    image: np.ndarray, brain_mask: np.ndarray, affine: np.ndarray, start: np.ndarray
) -> np.ndarray | None:
    """Find the affine map from a scan's scanner coordinates to the template's.

    Mattes mutual information (DOI 10.1109/TMI.2002.808359), so any contrast will do; regular-step gradient descent in
    SimpleITK.

    Args:
        image: the scan, any intensity unit, ``(D, H, W)``; what is not finite counts as background.
        brain_mask: boolean, same grid, not empty.
        affine: voxel to RAS millimetres ``(4, 4)``.
        start: ``(4, 4)``, RAS millimetres of the scan to those of the template, roughly.

    Returns:
        ``(4, 4)``, like ``start``; ``None`` without the template, for a brain of one intensity, or where the brain then
        covers the template's worse than at the start.
    """
    template = _template()
    if template is None:
        return None
    brain = np.where(brain_mask & np.isfinite(image), image, 0).astype(np.float32)
    top = float(np.percentile(brain[brain_mask], 99))
    if not top > float(np.percentile(brain[brain_mask], 1)):
        return None
    fixed, region = template
    moving = _smoothed(_to_itk(brain / max(abs(top), 1e-6), affine))
    found = _optimise(fixed, region, moving, np.linalg.inv(start))
    covers = _to_itk(brain_mask.astype(np.float32), affine)
    gain = _overlap(region, covers, np.linalg.inv(found)) - _overlap(region, covers, np.linalg.inv(start))
    return found if gain >= LEAST_GAIN else None


def _optimise(fixed: sitk.Image, region: sitk.Image, moving: sitk.Image, to_scan: np.ndarray) -> np.ndarray:
    """The map from scan to template, refined from its inverse ``to_scan``."""
    transform = _transform(to_scan)
    with _one_thread():  # a filter takes the number when it is made
        method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetMetricFixedMask(sitk.BinaryDilate(region, [MARGIN_VOXELS] * 3))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-2, numberOfIterations=MAX_ITERATIONS, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        with _one_thread():
            method.Execute(fixed, moving)
    except RuntimeError as error:  # such as too little overlap to go on from
        logger.warning("the brain could not be registered to the template: %s", str(error).splitlines()[-1])
        return np.asarray(np.linalg.inv(to_scan))
    linear = np.reshape(transform.GetMatrix(), (3, 3))
    centre = np.asarray(transform.GetCenter())
    found = np.eye(4)
    found[:3, :3] = linear
    found[:3, 3] = np.asarray(transform.GetTranslation()) + centre - linear @ centre
    return np.asarray(np.linalg.inv(_TO_LPS @ found @ _TO_LPS))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums of several threads differ from run to run, and the metric heeds only ITK's number for the whole process."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _transform(matrix: np.ndarray) -> sitk.AffineTransform:
    """An ITK transform about the middle of the template's brain, from a map of RAS millimetres."""
    lps = _TO_LPS @ matrix @ _TO_LPS
    centre = np.array([0.0, 18.0, 10.0])
    transform = sitk.AffineTransform(3)
    transform.SetCenter(centre.tolist())
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation((lps[:3, :3] @ centre + lps[:3, 3] - centre).tolist())
    return transform


def _overlap(region: sitk.Image, covers: sitk.Image, to_scan: np.ndarray) -> float:
    """Dice of the template's brain and the scan's, on the template's grid."""
    moved = sitk.Resample(covers, region, _transform(to_scan), sitk.sitkLinear, 0.0)
    ours, theirs = sitk.GetArrayViewFromImage(moved) > 0.5, sitk.GetArrayViewFromImage(region) > 0
    return 2 * float((ours & theirs).sum()) / float(max(1, ours.sum() + theirs.sum()))


@lru_cache(maxsize=1)
def _template() -> tuple[sitk.Image, sitk.Image] | None:
    """The template on a coarse grid, and its brain as 0 and 1."""
    folder = template_folder()
    file = None if folder is None else folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    if file is None or not file.is_file():
        return None
    image = nib.Nifti1Image.from_filename(file)
    fine = _smoothed(_to_itk(np.asarray(image.dataobj, dtype=np.float32), np.asarray(image.affine)))
    size = [int(n * step / GRID_MM) for n, step in zip(fine.GetSize(), fine.GetSpacing(), strict=True)]
    coarse = sitk.Resample(
        fine, size, sitk.Transform(), sitk.sitkLinear, fine.GetOrigin(), [GRID_MM] * 3, fine.GetDirection(), 0.0
    )
    top = float(sitk.GetArrayViewFromImage(coarse).max())
    return sitk.Cast(coarse / top, sitk.sitkFloat32), sitk.BinaryFillhole(
        sitk.Cast(coarse > 0.15 * top, sitk.sitkUInt8)
    )


def _smoothed(image: sitk.Image) -> sitk.Image:
    """Blurred to the coarse grid, along axes that are finer."""
    sigmas = [GRID_MM / 2.355 if step < GRID_MM / 1.5 else 0.0 for step in image.GetSpacing()]
    for axis, sigma in enumerate(sigmas):
        if sigma and image.GetSize()[axis] >= 4:
            image = sitk.RecursiveGaussian(image, sigma=sigma, direction=axis)
    return sitk.Cast(image, sitk.sitkFloat32)


def _to_itk(volume: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """An array with its voxel-to-RAS affine as an ITK image; a sheared affine is straightened."""
    lps = _TO_LPS @ np.asarray(affine, dtype=float)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    left, _, right = np.linalg.svd(lps[:3, :3] / spacing)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.astype(np.float32).T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((left @ right).ravel().tolist())
    return image
