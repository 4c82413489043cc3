"""How many choices the strategies make in a second."""

from __future__ import annotations

from harness import Measurement

from peerinfer.placement import STRATEGIES
from peerinfer_sim.balance.choices import BUDGETS, choices_per_second, filled_per_second


async def run(quick: bool) -> list[Measurement]:
    rounds = 2_000 if quick else 20_000
    measured = []
    for candidates, budget in BUDGETS.items():
        for name in STRATEGIES:
            rate = choices_per_second(name, candidates, rounds)
            label = f"placement_{name.replace('-', '_')}_{candidates}"
            measured.append(Measurement(label, rate, "choices/s", "higher", budget=budget))
    measured.append(Measurement("placement_fill_10000", filled_per_second(10_000), "tasks/s", "higher"))
    return measured
