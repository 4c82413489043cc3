"""Traces through OpenTelemetry's own API: one for each frame that was answered, one for each online request.

What becomes of them is not decided here. Without the package (`pip install 'peerinfer[traces]'`), or without an SDK that
was set up for it (`opentelemetry-instrument peerinfer join`), nothing is made and nothing is sent. A span is told of when
it is over, with the times at which its stages began and ended: nothing here runs while work is under way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import peerinfer
from peerinfer_node.stages import Spent

_NS = 1_000_000_000


class Tracing:
    def __init__(self, wall_s: Callable[[], float]) -> None:
        self._wall_s = wall_s
        self._trace: Any = None
        self._tracer: Any = None
        try:
            from opentelemetry import propagate, trace
        except ImportError:
            return
        self._trace, self._extract = trace, propagate.extract
        self._tracer = trace.get_tracer("peerinfer", peerinfer.__version__)

    def frame(self, job: str, spent: Spent) -> None:
        """A frame of a job that was answered, or samples that were computed again."""
        if self._tracer is None or not self._is_set_up():
            return
        about = {"peerinfer.job": job, "peerinfer.peer": spent.peer, "peerinfer.tasks": spent.tasks}
        if spent.frame is not None:
            about["peerinfer.frame"] = spent.frame
        self._span("frame" if spent.frame is not None else "check", spent.stages, about)

    def request(self, headers: Mapping[str, str], about: Mapping[str, Any], queued_s: float, rest_s: float) -> None:
        """An online request that was answered; it belongs to the trace that its `traceparent` names, if it has one."""
        if self._tracer is not None:
            stages = [("queue", queued_s), ("compute", rest_s)]
            self._span("infer", stages, about, context=self._extract(dict(headers)))

    def _is_set_up(self) -> bool:
        """Else spans would be made for nobody, which takes longer than all else that is noted of a frame."""
        return not isinstance(self._trace.get_tracer_provider(), self._trace.ProxyTracerProvider)

    def _span(
        self, name: str, stages: Sequence[tuple[str, float]], about: Mapping[str, Any], context: Any = None
    ) -> None:
        end_ns = int(self._wall_s() * _NS)
        start_ns = end_ns - sum(int(seconds * _NS) for _, seconds in stages)
        whole = self._tracer.start_span(name, context=context, start_time=start_ns, attributes=dict(about))
        if whole.is_recording():
            inside = self._trace.set_span_in_context(whole)
            for stage, seconds in stages:
                part = self._tracer.start_span(stage, context=inside, start_time=start_ns)
                start_ns += int(seconds * _NS)
                part.end(start_ns)
        whole.end(end_ns)
