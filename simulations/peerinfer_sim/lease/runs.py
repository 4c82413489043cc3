"""Many runs, and what to do about one that failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from unittest.mock import patch

from peerinfer import journal, snapshots
from peerinfer.errors import PeerinferError
from peerinfer_sim.lease import signatures
from peerinfer_sim.lease.scenario import Scenario, draw
from peerinfer_sim.lease.world import World
from peerinfer_sim.watch import Violation


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong in one run."""

    scenario: Scenario
    what: str
    history: tuple[str, ...] = ()


def play(scenario: Scenario, trace: list[str] | None = None) -> Failure | None:
    """One run, with signatures that cost nothing."""
    try:
        with (
            patch.object(journal, "JOURNAL_BATCHES_PER_MESSAGE_MAX", scenario.batches_per_message),
            patch.object(journal, "JOURNAL_TAIL_BYTES", scenario.tail_bytes),
            patch.object(snapshots, "SNAPSHOT_PART_BYTES", scenario.part_bytes),
        ):
            World(scenario, signatures.identity, trace=trace).run()
    except Violation as violation:
        return Failure(scenario, violation.what, tuple(violation.history))
    except (AssertionError, PeerinferError) as error:
        return Failure(scenario, f"{type(error).__name__}: {error}")
    return None


def play_many(seeds: Sequence[int], on_run: Callable[[int], None] = lambda seed: None) -> Failure | None:
    """The first failure, or None."""
    with signatures.cheap():
        for seed in seeds:
            failure = play(draw(seed))
            on_run(seed)
            if failure is not None:
                return failure
    return None


def shrink(scenario: Scenario) -> tuple[int, ...]:
    """Numbers of the faults that are enough for the run to fail: none of them can be left out (delta debugging)."""
    kept = tuple(range(len(scenario.faults)))
    pieces = 2
    while len(kept) > 1:
        size = -(-len(kept) // pieces)
        for start in range(0, len(kept), size):
            rest = kept[:start] + kept[start + size :]
            if play(scenario.only(rest)) is not None:
                kept, pieces = rest, max(pieces - 1, 2)
                break
        else:
            if size == 1:
                break
            pieces = min(pieces * 2, len(kept))
    return kept if play(scenario.only(())) is None else ()
