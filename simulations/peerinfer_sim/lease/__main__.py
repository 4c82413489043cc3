"""`python -m peerinfer_sim.lease [--runs N] [--seed S] [--faults 0,3] [--mutant NAME] [--no-shrink] [--trace]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from peerinfer_sim.lease import mutants, runs, signatures
from peerinfer_sim.lease.scenario import draw


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 if every run was as it must be, 1 at the first that was not, 2 for a command that makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m peerinfer_sim.lease", description="Tears at the lease and the journal."
    )
    parser.add_argument("--seed", type=int, help="of the first run; drawn from the time of day")
    parser.add_argument("--runs", type=int, default=200, help="each with the next seed (200)")
    parser.add_argument("--faults", metavar="N,N", help="with one run: only these of its faults; empty for none")
    parser.add_argument("--mutant", choices=list(mutants.MUTANTS), help="with this guard broken on purpose")
    parser.add_argument("--no-shrink", action="store_true", help="leave the faults of a run that failed as they are")
    parser.add_argument("--trace", action="store_true", help="with one run: print every event")
    chosen = parser.parse_args(arguments)
    if (chosen.faults is not None or chosen.trace) and chosen.runs != 1:
        parser.error("--faults and --trace are for one run: add --runs 1")
    if chosen.faults is not None and not all(number.isdecimal() for number in chosen.faults.split(",") if number):
        parser.error("--faults takes numbers with commas between them")
    seed = chosen.seed if chosen.seed is not None else int(time.time())
    print(f"seed {seed}")
    with ExitStack() as stack:
        if chosen.mutant:
            stack.enter_context(mutants.broken(chosen.mutant))
        if chosen.runs == 1:
            return _one(seed, chosen.faults, chosen.trace, chosen.mutant)
        started_s, used_s = time.perf_counter(), time.process_time()
        failure = runs.play_many(range(seed, seed + chosen.runs))
        if failure is None:
            speed = chosen.runs / (time.process_time() - used_s)
            took_s = time.perf_counter() - started_s
            print(f"{chosen.runs} runs without a violation, in {took_s:.1f} s ({speed:.0f} each second of a core)")
            print(f"again: python -m peerinfer_sim.lease --seed {seed} --runs {chosen.runs}")
            return 0
        print(f"run {failure.scenario.seed}: {failure.what}")
        kept = None
        if not chosen.no_shrink:
            with signatures.cheap():
                kept = ",".join(map(str, runs.shrink(failure.scenario)))
        return _one(failure.scenario.seed, kept, False, chosen.mutant)


def _one(seed: int, faults: str | None, wants_trace: bool, mutant: str | None) -> int:
    scenario = draw(seed)
    if faults is not None:
        numbers = (int(number) for number in faults.split(",") if number)
        scenario = scenario.only(tuple(number for number in numbers if number < len(scenario.faults)))
    print(scenario)
    trace: list[str] | None = [] if wants_trace else None
    with signatures.cheap():
        failure = runs.play(scenario, trace)
    print("\n".join(trace or ()))
    if failure is None:
        print("as it must be")
    else:
        print("\n".join((failure.what, *failure.history)))
    words = ["python -m peerinfer_sim.lease", f"--seed {seed} --runs 1"]
    words += [f"--faults '{faults}'"] if faults is not None else []
    words += [f"--mutant {mutant}"] if mutant else []
    print(f"again: {' '.join(words)} --trace")
    return 0 if failure is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
