"""Runs our benchmarks, prints one table and writes build/bench.json.

    python tests/benchmarks/run.py [--quick] [NAME…]

Without names all of them run. The file holds this run alone. A missed budget is shown and does not fail.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

import bare_stream
import codec_bench
import device_bench
import gateway_bench
import handover_bench
import journal_bench
import node_bench
import placement_bench
import receipts_bench
import trio
from harness import (
    BENCH_JSON,
    BENCH_MACHINE_JSON,
    Measurement,
    Row,
    compare,
    machine,
    table,
    write_json,
    write_results,
)

Benchmark = Callable[[bool], Awaitable[list[Measurement]]]

# Whoever adds a benchmark adds its line here; baselines stand before what is measured against them.
BENCHMARKS: dict[str, Benchmark] = {
    "codec": codec_bench.run,
    "placement": placement_bench.run,
    "receipts": receipts_bench.run,
    "device": device_bench.run,
    "bare_stream": bare_stream.measurements,
    "node": node_bench.run,
    "gateway": gateway_bench.run,
    "journal": journal_bench.run,
    "handover": handover_bench.run,
}


async def _measure(names: Sequence[str], quick: bool) -> list[Row]:
    measured: list[Measurement] = []
    for name in names:
        print(f"{name}…", file=sys.stderr, flush=True)
        measured += await BENCHMARKS[name](quick)
    return compare(measured)


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs peerinfer's benchmarks.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, rougher figures")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(BENCHMARKS)}")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    where = machine(datetime.now(UTC))
    rows = trio.run(_measure, arguments.names or list(BENCHMARKS), arguments.quick)
    write_results(BENCH_JSON, rows)
    write_json(BENCH_MACHINE_JSON, where)
    print(table(rows))
    missed = [row.measurement.name for row in rows if row.budget_met is False]
    if missed:
        print(f"over budget: {', '.join(missed)}")


if __name__ == "__main__":
    main()
