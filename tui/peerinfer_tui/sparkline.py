"""A curve in block characters."""

from __future__ import annotations

from collections.abc import Sequence

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def resampled(samples: Sequence[tuple[float, float]], now_s: float, span_s: float, cells: int) -> list[float | None]:
    """For each of `cells` equal parts of the last `span_s`, the mean of its samples; None where there is none."""
    sums = [0.0] * cells
    counts = [0] * cells
    start_s = now_s - span_s
    for at_s, value in samples:
        # The last sample belongs to the last cell, not to the one after it.
        cell = min(int((at_s - start_s) / span_s * cells), cells - 1) if at_s <= now_s else cells
        if 0 <= cell < cells:
            sums[cell] += value
            counts[cell] += 1
    return [total / count if count else None for total, count in zip(sums, counts, strict=True)]


def curve(values: Sequence[float | None], height: int, top: float) -> list[str]:
    """`height` lines of text, the highest first. `top` is the value that reaches the upper edge.

    Whatever is above zero is seen: a node that works a little must not look like one that rests.
    """
    eighths = [
        0 if value is None or value <= 0 or top <= 0 else max(1, min(height * 8, round(value / top * height * 8)))
        for value in values
    ]
    return ["".join(_EIGHTHS[max(0, min(8, each - row * 8))] for each in eighths) for row in range(height - 1, -1, -1)]
