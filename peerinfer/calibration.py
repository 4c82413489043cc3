"""How far two honest answers of this very model lie apart: measured before a job is sent, and signed into its manifest.

Theory of operation. ONNX Runtime promises no bitwise repeatability, and how much a model amplifies the last bits depends
on the model: for one, 1e-5 is a lie, for another 1e-3 is noise. The submitter has one kind of device, so it imitates the
others: it runs some of the job's own items together and one by one, as batches do, and with inputs that are moved by as
much as arithmetic of another device moves them (`SAME_NUDGE`, `OTHER_NUDGE`). What the outputs move by, times `MARGIN`,
is the tolerance: never narrower than what devices of the class were seen to differ by (`SAME_FLOOR`, `OTHER_FLOOR`), and
never so wide that an answer of nothing could pass (`CEILING`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peerinfer.comparison import HALF_ATOL, HALF_RTOL
from peerinfer.messages import OutputRule
from peerinfer.tensors import TensorSpec

ITEMS = 8
"""Reference items of the job, as far as time allows."""

MARGIN = 4.0

SAME_NUDGE = 2.0**-21
"""Of an input: four units in the last place of single precision, as another order of adding up makes."""

OTHER_NUDGE = 2.0**-17
"""Another provider, with approximations of its own: honest cards differ from the processor by up to 5e-5 of the largest."""

SAME_FLOOR = (1e-4, 1e-5)
"""Relative and absolute tolerance, never less: devices of one class."""

OTHER_FLOOR = (1e-3, 1e-4)

CEILING = 0.1
"""Of the largest magnitude. A model whose answers move further cannot be checked by its numbers."""

Rows = Mapping[str, NDArray[Any]]


def moved(body: bytes, tensors: Sequence[TensorSpec], nudge: float, seed: int) -> bytes | None:
    """The inputs, each moved by so much of itself, one way or the other; None where they hold no numbers to move."""
    rng = np.random.default_rng(seed)
    changed = bytearray(body)
    start, has_moved = 0, False
    for spec in tensors:
        end = start + spec.size_bytes
        if spec.dtype in ("float16", "float32", "float64") and spec.shape:
            values = np.frombuffer(body[start:end], dtype=spec.dtype)
            signs = rng.choice(np.array([-nudge, nudge]), size=values.shape)
            with np.errstate(over="ignore", invalid="ignore"):
                changed[start:end] = (values * (1.0 + signs)).astype(spec.dtype).tobytes()
            has_moved = True
        start = end
    return bytes(changed) if has_moved else None


def spread_of(reference: NDArray[Any], others: Sequence[NDArray[Any]]) -> float:
    """By how much others differ at most, as a part of the largest magnitude; 0 where that says nothing."""
    if reference.dtype.kind != "f" or not reference.size:
        return 0.0
    r = reference.astype(np.float64)
    finite = np.isfinite(r)
    scale = float(np.abs(r[finite]).max()) if finite.any() else 0.0
    if not scale:
        return 0.0
    widest = 0.0
    for other in others:
        if other.shape == reference.shape:
            with np.errstate(over="ignore", invalid="ignore"):
                difference = np.abs(other.astype(np.float64) - r)
            known = difference[np.isfinite(difference)]
            widest = max(widest, float(known.max()) / scale if known.size else 0.0)
    return widest


def rule_for(
    name: str, how: str, reference: NDArray[Any], same: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]
) -> OutputRule:
    """The rule of one output, by its answers in runs that imitate devices of the same class, and of others."""
    if reference.dtype.kind != "f":
        return OutputRule(name, how, -1.0, -1.0, -1.0, -1.0)
    half = reference.dtype == np.float16
    floors = ((HALF_RTOL, HALF_ATOL),) * 2 if half else (SAME_FLOOR, OTHER_FLOOR)
    rtol, atol = _tolerance(spread_of(reference, same), floors[0])
    rtol_other, atol_other = _tolerance(spread_of(reference, [*same, *other]), floors[1])
    return OutputRule(name, how, rtol, atol, max(rtol, rtol_other), max(atol, atol_other))


def is_unsteady(reference: NDArray[Any], others: Sequence[NDArray[Any]]) -> bool:
    """Whether honest answers may lie further apart than any tolerance allows."""
    return MARGIN * spread_of(reference, others) > CEILING


def _tolerance(spread: float, floor: tuple[float, float]) -> tuple[float, float]:
    """What moves is the absolute part: it says how far, and not of which number."""
    return floor[0], min(max(floor[1], MARGIN * spread), CEILING)
