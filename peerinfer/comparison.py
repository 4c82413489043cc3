"""Does a result agree with a reference? The comparators of a job's verification policy.

ONNX Runtime promises no bitwise repeatability: batch size, thread count, provider and card move float results a little.
Honest devices differ by up to about 1e-5 of the largest output (FINDINGS of the WebGPU provider: 1e-6, once 5e-5), so
the defaults leave a hundredfold margin: `|a - r| <= atol * max|r| + rtol * |r|`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEFAULT_RTOL = 1e-3
DEFAULT_ATOL = 1e-4
"""Relative to the largest magnitude in the reference."""

COSINE_MIN = 0.9999


def disagreement(
    claimed: Mapping[str, NDArray[Any]],
    reference: Mapping[str, NDArray[Any]],
    *,
    compare: str,
    rtol: float | None = None,
    atol: float | None = None,
) -> str:
    """Why `claimed` does not stand up to `reference`, in one line; "" if it does. Outputs by name."""
    for name, wanted in reference.items():
        given = claimed.get(name)
        if given is None:
            return f"output {name!r} is missing"
        if given.dtype != wanted.dtype or given.shape != wanted.shape:
            return f"output {name!r} is {given.dtype}{list(given.shape)}, not {wanted.dtype}{list(wanted.shape)}"
        problem = _compare_one(given, wanted, compare, rtol, atol)
        if problem:
            return f"output {name!r}: {problem}"
    return ""


def _compare_one(
    given: NDArray[Any], wanted: NDArray[Any], compare: str, rtol: float | None, atol: float | None
) -> str:
    if compare == "exact" or (wanted.dtype.kind not in "f" and compare == "allclose"):
        same = np.array_equal(given, wanted, equal_nan=wanted.dtype.kind == "f")
        return "" if same else f"{int(np.sum(given != wanted))} of {wanted.size} elements differ"
    if compare == "argmax":
        if not wanted.ndim or not wanted.shape[-1]:
            return "" if np.array_equal(given, wanted) else "the scalars differ"
        differing = int(np.sum(given.argmax(axis=-1) != wanted.argmax(axis=-1)))
        return f"the largest element is another one in {differing} rows" if differing else ""
    a, r = given.astype(np.float64), wanted.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(r)):
        return "NaN or infinity stand in other places"
    finite = np.isfinite(r)
    a, r = a[finite], r[finite]
    if compare == "cosine":
        norm = float(np.linalg.norm(a) * np.linalg.norm(r))
        cosine = float(a @ r) / norm if norm else float(np.array_equal(a, r))
        return "" if cosine >= COSINE_MIN else f"cosine {cosine:.6f} is below {COSINE_MIN}"
    scale = float(np.abs(r).max()) if r.size else 0.0
    bound = (DEFAULT_ATOL if atol is None else atol) * scale + (DEFAULT_RTOL if rtol is None else rtol) * np.abs(r)
    excess = np.abs(a - r) - bound
    if not excess.size or float(excess.max()) <= 0:
        return ""
    worst = int(excess.argmax())
    return f"{a[worst]:.6g} where {r[worst]:.6g} is right ({int(np.sum(excess > 0))} of {r.size} elements are off)"
