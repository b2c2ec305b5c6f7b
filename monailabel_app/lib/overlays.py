"""The volumes behind a mask, as a viewer lays them over the scan: the anomaly map, its parts, and the expected scan."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, Response
from itermask3d.inference.results import RECONSTRUCTION_ERROR, TISSUE_DEVIATION

from lib.errors import RequestError
from lib.results import Results
from lib.uploads import safe_name

__all__ = ["OVERLAYS", "STEPS_PER_SD", "STEPS_PER_UNIT", "add_overlay_route", "as_deviation", "as_expected", "as_heat"]

OVERLAYS = {
    "map": "anomaly_map",
    "expected": "reconstruction",
    "deviation": TISSUE_DEVIATION,
    "error": RECONSTRUCTION_ERROR,
}
"""Volume of a result by the name of its overlay."""

STEPS_PER_UNIT = 32
"""Steps of the map's byte up to the threshold; twice and four times as many are where bands begin. It ends at 8."""

STEPS_PER_SD = 100
"""Steps of the deviation from the tissues to a standard deviation."""

SHARE_WITHOUT_THRESHOLD = 0.998
"""Without a threshold this quantile of the map in the brain takes the place of four of them: strengths are relative."""

INTEGER_RANGE = 256
"""A scan of fewer steps is passed as fractions."""


def as_heat(anomaly_map: np.ndarray, threshold: float | None) -> np.ndarray:
    """The map as bytes, in :data:`STEPS_PER_UNIT` to the threshold.

    Args:
        anomaly_map: 0 outside the brain.
        threshold: of the scan; without one, strengths are relative.
    """
    inside = anomaly_map[anomaly_map > 0]
    unit = threshold or (float(np.quantile(inside, SHARE_WITHOUT_THRESHOLD)) / 4 if inside.size else 0.0)
    if not unit:
        return np.zeros(anomaly_map.shape, dtype=np.uint8)
    return np.clip(np.rint(anomaly_map * (STEPS_PER_UNIT / unit)), 0, 255).astype(np.uint8)


def as_expected(reconstruction: np.ndarray) -> np.ndarray:
    """The expected scan in the scan's own intensities: int16 where that is exact enough, else float32."""
    top = float(np.abs(reconstruction).max(initial=0))
    exact = INTEGER_RANGE <= top <= np.iinfo(np.int16).max
    return np.rint(reconstruction).astype(np.int16) if exact else reconstruction.astype(np.float32)


def as_deviation(deviation: np.ndarray) -> np.ndarray:
    """The signed deviation from the tissues as int16, in :data:`STEPS_PER_SD`."""
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(deviation * STEPS_PER_SD), limits.min, limits.max).astype(np.int16)


def add_overlay_route(router: APIRouter, results: Results, dependencies: list[Any]) -> None:
    """``GET /itermask3d/overlay?image=&name=``, ``name`` being one of :data:`OVERLAYS`."""

    def overlay(image: str, name: str) -> Response:
        """Voxels of the last run, first axis fastest; ``X-Voxels`` names their type, ``X-Relative`` a missing unit."""
        if name not in OVERLAYS:
            raise RequestError(422, f"there is no overlay '{name[:40]}'; expected one of {', '.join(OVERLAYS)}")
        voxels = results.volume(safe_name(image), OVERLAYS[name])
        if voxels is None and results.volume(safe_name(image), "mask") is not None:
            raise RequestError(404, "the tissues had no say in this result, so it has one kind of evidence alone")
        if voxels is None:
            raise RequestError(404, f"image '{image}' has no result yet; run the model first")
        threshold = (results.params(image) or {}).get("threshold")
        if name in ("map", "error"):
            sent = as_heat(voxels, threshold if name == "map" else None)  # the threshold is of the fused map
        else:
            sent = as_expected(voxels) if name == "expected" else as_deviation(voxels)
        headers = {
            "X-Shape": ",".join(map(str, sent.shape)),
            "X-Voxels": str(sent.dtype),
            "X-Relative": "no" if threshold else "yes",
            "Cache-Control": "no-store",
        }
        return Response(sent.tobytes(order="F"), media_type="application/octet-stream", headers=headers)

    router.add_api_route(
        "/itermask3d/overlay", overlay, methods=["GET"], dependencies=dependencies, response_model=None
    )
