"""How the outputs of one job are compared: each by its own rule, with the tolerance of the devices that computed it.

A job's manifest names a comparator for all outputs, and a rule for those that differ. Tolerances are the user's (`--rtol`,
`--atol`), or were measured on the model before anything was sent (`calibration`), or follow from the dtype. Measured ones
come in two widths: narrow for an answer from a device of the class that computed the reference, wide for all others. The
class is what the worker's receipt says; who lies about it gets the wide one at best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from peerinfer.comparison import agree_at_once, disagreement, is_imprecise
from peerinfer.messages import Manifest, OutputRule

Rows = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Comparator:
    compare: str = "allclose"
    rtol: float | None = None
    atol: float | None = None
    rules: Mapping[str, OutputRule] = field(default_factory=dict)

    def problem(self, claimed: Rows, reference: Rows, *, is_same_class: bool = False) -> str:
        """Why `claimed` does not stand up to `reference`, in one line; "" if it does."""
        if not self.rules:
            return disagreement(claimed, reference, compare=self.compare, rtol=self.rtol, atol=self.atol)
        for name in reference:
            compare, rtol, atol = self._of(name, is_same_class=is_same_class)
            given = {name: claimed[name]} if name in claimed else {}
            found = disagreement(given, {name: reference[name]}, compare=compare, rtol=rtol, atol=atol)
            if found:
                return found
        return ""

    def is_imprecise(self, claimed: Rows, reference: Rows) -> bool:
        """Whether results that do not stand up to the reference are only too coarse: as half precision would give them."""
        if any(self._of(name)[0] == "exact" for name in reference):
            return False
        return is_imprecise(claimed, reference, compare=self.compare, rtol=self.rtol, atol=self.atol)

    def agree_at_once(self, claims: Sequence[Rows], references: Sequence[Rows], *, is_same_class: bool) -> bool:
        """True if each of these small results stands up to its reference; False says nothing."""
        if not claims:
            return False
        found = [self._of(name, is_same_class=is_same_class) for name in references[0]]
        if any(compare != "allclose" for compare, _, _ in found):
            return False
        for name, (_, rtol, atol) in zip(references[0], found, strict=True):
            given = [{name: claim[name]} if name in claim else {} for claim in claims]
            wanted = [{name: reference[name]} if name in reference else {} for reference in references]
            if not agree_at_once(given, wanted, rtol=rtol, atol=atol):
                return False
        return True

    def _of(self, name: str, *, is_same_class: bool = False) -> tuple[str, float | None, float | None]:
        rule = self.rules.get(name)
        if rule is None:
            return self.compare, self.rtol, self.atol
        rtol, atol = (rule.rtol, rule.atol) if is_same_class else (rule.rtol_other, rule.atol_other)
        return (
            rule.compare,
            self.rtol if self.rtol is not None else rtol if rtol >= 0 else None,
            self.atol if self.atol is not None else atol if atol >= 0 else None,
        )


def comparator_of(manifest: Manifest) -> Comparator:
    return Comparator(
        manifest.compare,
        manifest.rtol if manifest.rtol >= 0 else None,
        manifest.atol if manifest.atol >= 0 else None,
        {rule.name: rule for rule in manifest.rules},
    )
