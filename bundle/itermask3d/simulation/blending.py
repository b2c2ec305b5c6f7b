r"""Two ways to put foreign content into a scan: by its share of each voxel, and by its gradients.

Gradient-domain ("seamless", Poisson) blending: inside a region :math:`\Omega` the result has the gradients of the
content :math:`g`, and on its border the values of the scan :math:`s`:

.. math:: \Delta f = \Delta g \text{ in } \Omega, \quad f = s \text{ on } \partial\Omega

With a content that vanishes on the border, :math:`f = g + h` with the harmonic :math:`h` that continues the scan.

Source: Pérez, Gangnet, Blake, Poisson image editing, ACM Transactions on Graphics 22 (2003),
doi:10.1145/882262.882269.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg

__all__ = ["alpha_blended", "harmonic_continuation"]

_TOLERANCE = 1e-6
_MAX_ITERATIONS = 2000


def alpha_blended(image: np.ndarray, content: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    r""":math:`(1 - \alpha)\,s + \alpha\,g`, voxel by voxel; float32."""
    return np.asarray(image + alpha * (content - image), dtype=np.float32)


def harmonic_continuation(image: np.ndarray, region: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """The smoothest continuation of a scan into a region, from the brain around it.

    What lies outside the brain is no neighbour: at the brain's surface the result is level (Neumann).

    Args:
        image: ``(D, H, W)``.
        region: boolean, inside the brain.
        brain: boolean.

    Returns:
        Float64 array that equals the image outside the region. Where a part of the region has no neighbour in the brain
        there is nothing to continue, and the image stays.

    Raises:
        ValueError: if the equations were not solved.
    """
    result = np.array(image, dtype=np.float64)
    anchored = _anchored(region, brain)
    if not anchored.any():
        return result
    (box,) = ndimage.find_objects(ndimage.binary_dilation(anchored).astype(np.uint8))
    known = (brain & ~region)[box]
    solved = _solve(result[box], anchored[box], known)
    result[anchored] = solved
    return result


def _anchored(region: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """The connected parts of a region that touch the rest of the brain."""
    labels, _ = ndimage.label(region)
    touching = np.unique(labels[ndimage.binary_dilation(brain & ~region) & region])
    return np.asarray(np.isin(labels, touching[touching > 0]))


def _solve(image: np.ndarray, inside: np.ndarray, known: np.ndarray) -> np.ndarray:
    number = np.full(inside.shape, -1)
    number[inside] = np.arange(int(inside.sum()))
    degree, total = np.zeros(int(inside.sum())), np.zeros(int(inside.sum()))
    rows, columns = [], []
    for axis in range(3):
        for step in (1, -1):
            here, there = _neighbours(inside.shape, axis, step)
            both = inside[here] & inside[there]
            rows.append(number[here][both])
            columns.append(number[there][both])
            fixed = inside[here] & known[there]
            np.add.at(total, number[here][fixed], image[there][fixed])
            np.add.at(degree, number[here][both | fixed], 1)
    row, column = np.concatenate(rows), np.concatenate(columns)
    links = sparse.csr_matrix((np.ones(len(row)), (row, column)), shape=(len(degree),) * 2)
    start = np.full(len(degree), total.sum() / max(1, degree.sum() - len(row)))
    solved, failed = cg(sparse.diags(degree) - links, total, x0=start, rtol=_TOLERANCE, maxiter=_MAX_ITERATIONS)
    if failed:
        raise ValueError(f"the blending of {len(degree)} voxels did not converge in {_MAX_ITERATIONS} iterations")
    return np.asarray(solved)


def _neighbours(shape: tuple[int, ...], axis: int, step: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Two views of a grid: voxels that have a neighbour in one direction, and these neighbours."""
    lower, upper = slice(0, shape[axis] - 1), slice(1, shape[axis])
    here, there = (lower, upper) if step == 1 else (upper, lower)
    return (
        tuple(here if other == axis else slice(None) for other in range(3)),
        tuple(there if other == axis else slice(None) for other in range(3)),
    )
