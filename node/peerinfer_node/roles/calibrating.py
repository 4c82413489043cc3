"""Measures on this node's own device how far honest answers of a job's model lie apart; what follows is `calibration`'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peerinfer.calibration import ITEMS, OTHER_NUDGE, SAME_NUDGE, is_unsteady, moved, rule_for
from peerinfer.errors import ExecutionError, InputError
from peerinfer.ids import Cid
from peerinfer.messages import OutputRule
from peerinfer.tensors import Port
from peerinfer_node.formats import Inputs
from peerinfer_node.log import Log
from peerinfer_node.ports import Batch, Executor, InThread
from peerinfer_node.roles.answers import cut, raw_bytes

CALIBRATION_S = 2.0
"""A job waits so long for it at most; a slow model is measured on fewer items, and the slowest not at all."""

CALIBRATION_SHARE = 0.05
CALIBRATION_MIN_S = 0.1
"""And no more than this share of what the job takes here, or this long: small jobs are not there to be prepared."""

RUNS = 6
RUN_TIMEOUT_S = 20.0

Arrays = Mapping[str, NDArray[Any]]


def named_rules(outputs: Sequence[Port], named: Mapping[str, str]) -> tuple[OutputRule, ...]:
    """Rules of outputs that are compared in their own way, with tolerances by dtype. Raises `InputError`."""
    known = {port.name for port in outputs}
    for name in named:
        if name not in known:
            raise InputError(f"--compare: the model has no output {name!r}; it has {', '.join(sorted(known))}")
    return tuple(OutputRule(name, way, -1.0, -1.0, -1.0, -1.0) for name, way in named.items())


async def measured_rules(
    executor: Executor,
    model: Cid,
    inputs: Inputs,
    outputs: Sequence[Port],
    how: str,
    named: Mapping[str, str],
    *,
    seconds_per_item: float,
    in_thread: InThread,
    log: Log,
) -> tuple[OutputRule, ...]:
    """The rule of every output. Where the model could not be measured, those that the user named."""
    binding = inputs.binding
    budget_s = min(max(CALIBRATION_SHARE * inputs.items * seconds_per_item, CALIBRATION_MIN_S), CALIBRATION_S)
    affordable = int(budget_s / (RUNS * max(seconds_per_item, 1e-6) * binding.block))
    runs = min(ITEMS, affordable, inputs.items // binding.block)
    if runs < 1:
        return named_rules(outputs, named)
    items = runs * binding.block
    rows = await in_thread(lambda: inputs.rows(0, items))
    body = b"".join(bytes(raw_bytes(row)) for row in rows)
    tensors = binding.frame_specs(items)

    async def run(data: bytes | None, counts: tuple[int, ...]) -> Arrays | None:
        if data is None:
            return None
        try:
            result = await executor.run(model, Batch(counts, tensors, [data], binding.merge), RUN_TIMEOUT_S)
        except (ExecutionError, KeyError):
            return None
        if len(result.groups) != 1 or result.failures:
            return None  # Shapes that depend on the data, or items that the model refuses: nothing to compare.
        group = result.groups[0]
        return cut(group.tensors, bytes(group.body), 0, 0, sum(counts))

    one_by_one = (1,) * runs
    reference = await run(body, (runs,))
    same = [await run(body, one_by_one)] + [
        await run(moved(body, tensors, SAME_NUDGE, seed), one_by_one) for seed in (1, 2)
    ]
    other = [await run(moved(body, tensors, OTHER_NUDGE, seed), one_by_one) for seed in (3, 4)]
    if reference is None:
        return named_rules(outputs, named)
    rules = []
    for port in outputs:
        if port.name not in reference:
            continue
        near, far = _all(port.name, same), _all(port.name, other)
        rules.append(rule_for(port.name, named.get(port.name, how), reference[port.name], near, far))
        if is_unsteady(reference[port.name], [*near, *far]):
            log.warning("honest answers of this model may lie far apart: results are hard to check", output=port.name)
    return tuple(rules)


def _all(name: str, runs: Sequence[Arrays | None]) -> list[NDArray[Any]]:
    return [np.asarray(found[name]) for found in runs if found is not None and name in found]
