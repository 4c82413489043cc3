"""`python -m peerinfer_sim [SCENARIO…] [--seed N] [--runs N] [--log FILE]`: runs scenarios, says what they came to."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

from peerinfer.errors import UsageError
from peerinfer_sim import determinism, outcome, scenario
from peerinfer_sim.discrete import DiscreteWorld
from peerinfer_sim.event_log import EventLog
from peerinfer_sim.scenario import Scenario
from peerinfer_sim.watch import Violation
from peerinfer_sim.whole import WholeWorld


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0, 1 after a violation, 2 for a command that makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m peerinfer_sim", description="Runs simulated swarms.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(scenario.names())}; all")
    parser.add_argument("--seed", type=int, help="of the first run; drawn from the time of day")
    parser.add_argument("--runs", type=int, default=1, help="of each scenario, each with the next seed")
    parser.add_argument("--log", metavar="FILE", help="writes every event down")
    parser.add_argument("--nodes", type=int, help="at most so many in each group")
    parser.add_argument("--items", type=int, help="at most so many in the job")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else time.time_ns() // 1_000_000 % 1_000_000
    print(f"seed {seed}", flush=True)
    try:
        chosen = {name: scenario.load(name) for name in options.scenarios or scenario.names()}
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(options.log, "w", encoding="utf-8")) if options.log else None
            return _run_all(chosen, seed, options, file)
    except (UsageError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def _run_all(chosen: Mapping[str, Scenario], seed: int, options: argparse.Namespace, file: TextIO | None) -> int:
    print(outcome.header(), flush=True)
    for name, one in chosen.items():
        smaller = one.smaller(nodes=options.nodes, items=options.items)
        for number in range(seed, seed + options.runs):
            if file is not None:
                file.write(f"# {one.name} seed {number}\n")
            try:
                print(outcome.row(run(smaller, number, EventLog(file))), flush=True)
            except BaseException as error:
                _explain(error, _replay(name, number, options))
                if isinstance(error, Violation):
                    return 1
                raise
    return 0


def run(one: Scenario, seed: int, log: EventLog) -> outcome.Outcome:
    """One run. Raises `Violation`."""
    world = WholeWorld(one, seed, log) if one.floor == "whole" else DiscreteWorld(one, seed, log)
    return world.run()


def _explain(error: BaseException, replay: str) -> None:
    if isinstance(error, Violation):
        print("\n".join(error.history))
        print(f"violation: {error.what}")
    print(f"to see it again: {replay}", flush=True)


def _replay(name: str, seed: int, options: argparse.Namespace) -> str:
    words = ["python", "-m", "peerinfer_sim", name, "--seed", str(seed)]
    for option in ("nodes", "items"):
        value = getattr(options, option)
        if value is not None:
            words += [f"--{option}", str(value)]
    return shlex.join(words)


if __name__ == "__main__":
    determinism.fix_hash_seed(sys.argv[1:])
    sys.exit(main(sys.argv[1:]))
