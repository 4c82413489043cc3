"""What `run --json` prints: one object at the end, whatever the end is, so that a program need not look elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from peerinfer.control import Json
from peerinfer_node.cli.guard import leaf
from peerinfer_node.cli.outcome import Written, summary_json
from peerinfer_node.cli.output import show_json


class Report:
    """Collects what is known of a run. Prints nothing unless it is `wanted`, and never a second object."""

    def __init__(self, *, wanted: bool) -> None:
        self._is_due = wanted
        self._started_s = time.monotonic()
        self.job: Json = {}
        """The job's last picture; empty until it was accepted."""

    def begin(self) -> None:
        """The time of the run counts from now: what its node took to start does not belong to the job."""
        self._started_s = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started_s

    def print(self, *, written: Written | None = None, error: BaseException | None) -> None:
        self.print_instead(summary_json(self.job, seconds=self.seconds, written=written, error=error))

    def print_instead(self, answer: Json) -> None:
        """Of a run that ends otherwise: its plan, or a job that goes on."""
        if self._is_due:
            self._is_due = False
            show_json(answer)

    @contextmanager
    def at_the_latest(self) -> Iterator[None]:
        """Whatever ends the run without an object is told in one."""
        try:
            yield
        except BrokenPipeError:
            raise  # nobody reads
        except (Exception, KeyboardInterrupt) as error:
            self.print(error=leaf(error))
            raise
