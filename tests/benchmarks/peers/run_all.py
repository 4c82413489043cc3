"""The same small tasks through ZeroMQ, Ray and Celery, beside our own figures.

    python tests/benchmarks/peers/run_all.py [SYSTEM…]

Needs no package of its own: it makes .venv-peers from requirements/peers.txt and starts one trial after the other in it.
Our figures are those of the last `run.py`, from build/bench.json; run that first, on the same quiet machine. Writes
build/bench-peers.json. Exits with 1 if a system could not be measured, never for a figure.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import venv
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from descendants import adopt_orphans, end_descendants  # noqa: E402
from harness import (  # noqa: E402
    BENCH_JSON,
    BENCH_MACHINE_JSON,
    BENCH_PEERS_JSON,
    ROOT,
    Measurement,
    compare,
    machine,
    read_values,
    table,
    write_results,
)

REQUIREMENTS = ROOT / "requirements" / "peers.txt"
ENVIRONMENT = ROOT / ".venv-peers"
SYSTEMS = ("zeromq", "ray", "celery")
_TRIAL_TIMEOUT_S = 120.0

# Ours, theirs, and the budget for ours / theirs. The bare stream is the floor under our own p50.
_COMPARISONS = (
    ("node_task_p50", "zeromq_task_p50", None),
    ("node_task_p50", "ray_task_p50", 1.0),
    ("node_task_p50", "celery_task_p50", None),
    ("bare_stream_rtt_p50", "ray_task_p50", None),
    ("node_tasks", "zeromq_tasks", 1.0),
    ("node_tasks", "zeromq_framed_tasks", None),
    ("node_tasks", "ray_tasks", 10.0),
    ("node_tasks", "celery_tasks", 50.0),
)


def environment() -> Path:
    """The interpreter of the other systems' environment, made anew when its requirements have changed."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / "requirements.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
        return python
    print(f"installing {REQUIREMENTS.relative_to(ROOT)} into {ENVIRONMENT.name}…", file=sys.stderr, flush=True)
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(REQUIREMENTS)]
    subprocess.run(install, check=True)
    stamp.write_text(wanted, encoding="ascii")
    return python


def trial(system: str, python: Path) -> list[Measurement]:
    """Runs one system's trial and ends whatever it left running. Raises RuntimeError with the reason if it failed."""
    paths = os.pathsep.join((str(HERE), str(HERE.parent)))
    # A short path: Ray puts Unix sockets below it, and the names of those have room for 107 characters.
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as scratch:
        out = Path(scratch) / "measurements.json"
        log = Path(scratch) / "log.txt"
        try:
            with log.open("wb") as log_file:
                ended = subprocess.run(
                    [python, HERE / f"{system}_bench.py", out],
                    env={**os.environ, "PYTHONPATH": paths, "TMPDIR": scratch},
                    stdin=subprocess.DEVNULL,
                    stdout=log_file,
                    stderr=subprocess.STDOUT,
                    timeout=_TRIAL_TIMEOUT_S,
                    check=False,
                )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"no result within {_TRIAL_TIMEOUT_S:g} s\n{_tail(log)}") from None
        finally:
            end_descendants()
        if ended.returncode != 0 or not out.exists():
            raise RuntimeError(_tail(log) or f"exit status {ended.returncode}")
        return [_measurement(name, *found) for name, found in read_values(out).items()]


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


def _measurement(name: str, value: float, unit: str) -> Measurement:
    return Measurement(name, value, unit, "higher" if unit.endswith("/s") else "lower")


def _ours(theirs: list[Measurement]) -> list[Measurement]:
    """Our figures against each of theirs, as far as the last run of `run.py` measured them."""
    ours = read_values(BENCH_JSON)
    measured = {measurement.name: measurement for measurement in theirs}
    return [
        Measurement(f"{name} vs {other}", ours[name][0], ours[name][1], measured[other].better, other, budget)
        for name, other, budget in _COMPARISONS
        if name in ours and other in measured
    ]


def _about_ours() -> str:
    if not BENCH_MACHINE_JSON.exists():
        return "no figures of ours: run tests/benchmarks/run.py first"
    found = json.loads(BENCH_MACHINE_JSON.read_text(encoding="utf-8"))
    about = f"our figures are of {found['date']}, load {found['load_1m']}"
    measured = read_values(BENCH_JSON)
    missing = list(dict.fromkeys(name for name, _, _ in _COMPARISONS if name not in measured))
    return f"{about}, without {', '.join(missing)}" if missing else about


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures other systems with peerinfer's small tasks.")
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"some of: {', '.join(SYSTEMS)}")
    systems = parser.parse_args().systems or list(SYSTEMS)
    unknown = [system for system in systems if system not in SYSTEMS]
    if unknown:
        parser.error(f"no trial for {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
    where = machine(datetime.now(UTC))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    adopt_orphans()
    python = environment()
    theirs: list[Measurement] = []
    failures: dict[str, str] = {}
    for system in systems:
        print(f"{system}…", file=sys.stderr, flush=True)
        try:
            theirs += trial(system, python)
        except RuntimeError as error:
            failures[system] = str(error)
    rows = compare([*theirs, *_ours(theirs)])
    write_results(BENCH_PEERS_JSON, rows)
    print(table(rows))
    print(f"measured {where['date']}, load {where['load_1m']}, {where['cores']} cores; {_about_ours()}")
    for system, reason in failures.items():
        print(f"{system} could not be measured: {reason}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
