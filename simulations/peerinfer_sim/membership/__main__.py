"""`python -m peerinfer_sim.membership [--seed N] [--hours H] [--largest N]`: the figures, at several sizes.

A hundred hours of 30 nodes, which show a rate of false alarms below 0.1% per node and hour, take about twenty minutes.
A thousand nodes begin as ones that have been together for long.
"""

from __future__ import annotations

import argparse
import time

from peerinfer_sim.membership.figures import false_alarms, idle_traffic, idle_traffic_in_a_crowd, joining, misses
from peerinfer_sim.membership.searches import searches


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m peerinfer_sim.membership", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hours", type=float, default=1.0, help="of virtual time, for false alarms in a swarm of 30")
    parser.add_argument("--largest", type=int, default=1000, help="swarm whose every node is simulated")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    for size in (10, 30, 100, 1000):
        if size <= options.largest:
            started = time.monotonic()
            traffic = idle_traffic(options.seed, size, measure_s=30.0, has_settled=size > 100)
            print(f"{size:7} nodes: {traffic}  ({time.monotonic() - started:.0f} s)", flush=True)
    print(f"100,000 nodes: {idle_traffic_in_a_crowd(options.seed, 100_000)}", flush=True)
    for rare in (1000, 30, 3):
        told = "; ".join(map(str, searches(options.seed, 100_000, rare)))
        print(f"100,000 nodes, {rare} of a class: {told}", flush=True)
    print(f"joining 30: {joining(options.seed, 30)}")
    for name, latency_s in (("LAN, 2 ms", 0.002), ("WAN, 50 ms", 0.05), ("far, 100 ms", 0.1)):
        print(f"5% loss, {name}: {misses(options.seed, 30, 20, latency_s=latency_s)}", flush=True)
    print(f"5% loss, 50 ms, 30 nodes, {options.hours:g} h: {false_alarms(options.seed, 30, options.hours)}")


if __name__ == "__main__":
    main()
