"""How people name the comparators of outputs: exact, allclose, argmax, top-K, cosine."""

from __future__ import annotations

import re

PLACES_MAX = 1000
_TOP = re.compile(r"top-([1-9][0-9]{0,3})")


def places_of(how: str) -> int:
    """How many of the largest elements a comparator looks at: 1 for `argmax`, K for `top-K`, 0 for all others."""
    if how == "argmax":
        return 1
    found = _TOP.fullmatch(how)
    return int(found[1]) if found and int(found[1]) <= PLACES_MAX else 0


def is_comparator(how: str) -> bool:
    return how in ("exact", "allclose", "cosine") or places_of(how) > 0


def parse_compare(text: str) -> tuple[str, dict[str, str]]:
    """`allclose`, or `allclose,label=exact,scores=top-5`: how outputs are compared, and some of them otherwise.

    Raises ValueError with what to write.
    """
    first, *others = text.split(",")
    named: dict[str, str] = {}
    if "=" in first:
        first, others = "allclose", [first, *others]
    for other in others:
        name, _, how = other.rpartition("=")
        if not name or name in named:
            raise ValueError(f"{other[:40]!r} should read OUTPUT=HOW, once for each output")
        named[name] = how
    for how in (first, *named.values()):
        if not is_comparator(how):
            raise ValueError(f"{how[:40]!r} is none of exact, allclose, argmax, top-K, cosine")
    return first, named
