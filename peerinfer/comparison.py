"""Does a result agree with a reference? The comparators of a job's verification policy.

ONNX Runtime promises no bitwise repeatability: batch size, thread count, provider and card move float results a little.
Honest devices differ by up to about 1e-5 of the largest output (FINDINGS of the WebGPU provider: 1e-6, once 5e-5), so
the defaults leave a hundredfold margin: `|a - r| <= atol * max|r| + rtol * |r|`. Half precision has steps of 1e-3.

The first axis of every output counts items. `argmax`, `top-K` and `cosine` look at each item by itself, and at outputs
that hold one number for each item they say nothing: those are compared as by `allclose`, and whole numbers exactly. Strings
are always compared exactly, by what they say and not by the width of their slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peerinfer.comparator_names import places_of
from peerinfer.strings import contents
from peerinfer.tensors import STRING, dtype_name, is_string

DEFAULT_RTOL = 1e-3
DEFAULT_ATOL = 1e-4
"""Relative to the largest magnitude in the reference."""

HALF_RTOL = 1e-2
HALF_ATOL = 2e-3
"""For float16, whose numbers lie up to 1e-3 apart."""

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
        if _kind(given) != _kind(wanted) or given.shape != wanted.shape:
            return f"output {name!r} is {_kind(given)}{list(given.shape)}, not {_kind(wanted)}{list(wanted.shape)}"
        problem = _compare_one(given, wanted, compare, rtol, atol)
        if problem:
            return f"output {name!r}: {problem}"
    return ""


def is_imprecise(
    claimed: Mapping[str, NDArray[Any]],
    reference: Mapping[str, NDArray[Any]],
    *,
    compare: str,
    rtol: float | None = None,
    atol: float | None = None,
) -> bool:
    """Whether results that do not stand up to the reference are only too coarse: as half precision would give them."""
    if compare == "exact" or not all(values.dtype.kind == "f" for values in reference.values()):
        return False
    half = {"rtol": max(rtol or 0.0, HALF_RTOL), "atol": max(atol or 0.0, HALF_ATOL)}
    return not disagreement(claimed, reference, compare="allclose", **half)


def agree_at_once(
    claims: Sequence[Mapping[str, NDArray[Any]]],
    references: Sequence[Mapping[str, NDArray[Any]]],
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> bool:
    """True if each of these small results stands up to its reference by `allclose`, as `disagreement` would say.

    False says nothing: they are to be looked at one by one. Sixty results cost what one does otherwise.
    """
    for name, first in references[0].items():
        if first.dtype not in (np.float32, np.float64) or not first.size:
            return False
        given, wanted = [claim.get(name) for claim in claims], [reference.get(name) for reference in references]
        if any(array is None or array.shape != first.shape or array.dtype != first.dtype for array in given + wanted):
            return False
        a = np.stack(given).astype(np.float64).reshape(len(claims), -1)  # type: ignore[arg-type]
        r = np.stack(wanted).astype(np.float64).reshape(len(claims), -1)  # type: ignore[arg-type]
        if not np.isfinite(r).all() or not np.isfinite(a).all():
            return False
        bound = (DEFAULT_ATOL if atol is None else atol) * np.abs(r).max(axis=1, keepdims=True)
        if (np.abs(a - r) > bound + (DEFAULT_RTOL if rtol is None else rtol) * np.abs(r)).any():
            return False
    return True


def _kind(array: NDArray[Any]) -> str:
    """Its dtype, where strings of any width are strings."""
    name = dtype_name(array.dtype)
    return STRING if is_string(name) else name


def _compare_one(
    given: NDArray[Any], wanted: NDArray[Any], compare: str, rtol: float | None, atol: float | None
) -> str:
    if wanted.dtype.kind == "V":
        differing = sum(one != other for one, other in zip(contents(given), contents(wanted), strict=True))
        return f"{differing} of {wanted.size} strings differ" if differing else ""
    is_float = wanted.dtype.kind == "f"
    has_rows = wanted.ndim > 1 and wanted.size > 0
    if compare == "exact" or (not is_float and (compare == "allclose" or not has_rows)):
        same = np.array_equal(given, wanted, equal_nan=is_float)
        return "" if same else f"{int(np.sum(given != wanted))} of {wanted.size} elements differ"
    half = wanted.dtype == np.float16
    rtol = (HALF_RTOL if half else DEFAULT_RTOL) if rtol is None else rtol
    atol = (HALF_ATOL if half else DEFAULT_ATOL) if atol is None else atol
    a, r = given.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        if (places := places_of(compare)) and has_rows:
            return _other_choices(a, r, rtol, atol, min(places, r.shape[-1]))
        finite = np.isfinite(r)
        if not np.array_equal(np.isfinite(a), finite) or not np.array_equal(a[~finite], r[~finite], equal_nan=True):
            return "NaN or infinity stand in other places"
        if compare == "cosine" and has_rows:
            return _other_directions(np.where(finite, a, 0.0), np.where(finite, r, 0.0), atol)
        return _too_far(a[finite], r[finite], rtol, atol)


def _too_far(a: NDArray[Any], r: NDArray[Any], rtol: float, atol: float) -> str:
    excess = np.abs(a - r) - _bound(r, rtol, atol)
    if not excess.size or float(excess.max()) <= 0:
        return ""
    worst = int(excess.argmax())
    return f"{a[worst]:.6g} where {r[worst]:.6g} is right ({int(np.sum(excess > 0))} of {r.size} elements are off)"


def _other_choices(a: NDArray[Any], r: NDArray[Any], rtol: float, atol: float, places: int) -> str:
    """Rows along the last axis: does the claim pick the same `places` largest, in whatever order?

    Where the reference has nearly equal candidates for the last place, honest devices may differ.
    """
    # NaN is largest to NumPy's sort and to argmax alike: who has it elsewhere picks another element.
    best = np.partition(r, -places, axis=-1)[..., -places:]
    least = best[..., :1]
    picked = np.take_along_axis(r, np.argpartition(a, -places, axis=-1)[..., -places:], axis=-1)
    finite = r[np.isfinite(r)]
    scale = float(np.abs(finite).max()) if finite.size else 0.0
    margin = np.where(np.isfinite(least), rtol * np.abs(least) + atol * scale, 0.0)
    is_picked = (picked >= least - margin) | (np.isnan(picked) & np.isnan(least))
    is_alike = (~np.isfinite(picked)).sum(axis=-1) == (~np.isfinite(best)).sum(axis=-1)
    differing = int(np.sum(~(is_picked.all(axis=-1) & is_alike)))
    what = "the largest element is another one" if places == 1 else f"the {places} largest elements are others"
    return f"{what} in {differing} rows" if differing else ""


def _other_directions(a: NDArray[Any], r: NDArray[Any], atol: float) -> str:
    """Each item as one vector. A vector of zeros has no direction: both must be as good as nothing then."""
    scale = float(np.abs(r).max()) or 1.0
    a, r = (values.reshape(len(values), -1) / scale for values in (a, r))
    lengths, wanted = np.linalg.norm(a, axis=1), np.linalg.norm(r, axis=1)
    is_nothing = (lengths <= atol) & (wanted <= atol)
    cosines = np.where(is_nothing, 1.0, np.sum(a * r, axis=1) / (lengths * wanted))
    worst = float(np.nan_to_num(cosines, nan=-1.0).min())
    return "" if worst >= COSINE_MIN else f"cosine {worst:.6f} is below {COSINE_MIN}"


def _bound(r: NDArray[Any], rtol: float, atol: float) -> NDArray[Any]:
    scale = float(np.abs(r).max()) if r.size else 0.0
    bound: NDArray[Any] = atol * scale + rtol * np.abs(r)
    return bound
