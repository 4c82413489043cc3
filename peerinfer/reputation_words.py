"""What is believed of a peer, said as a colleague would say it."""

from __future__ import annotations

from peerinfer.reputation import NEWCOMER_AUDITS, Evidence, Standing
from peerinfer.units import format_count, format_duration


def words_of(row: Evidence, standing: Standing, now_s: float) -> list[str]:
    """One sentence for each judgement, the weightiest first."""
    said = []
    if standing.is_barred:
        ago = format_duration(max(now_s - row.fault_s, 0.0))
        said.append(
            f"gave a wrong result {ago} ago ({row.detail or 'no detail kept'}), so it gets no work from this node"
        )
    elif standing.faults:
        said.append("gave a wrong result long ago; it starts again as a newcomer")
    if not standing.is_barred:
        checks = format_count(round(standing.audits), "check")
        if standing.audits < 0.5:
            said.append("none of its results was checked here yet, so much of its work is computed twice")
        elif standing.is_newcomer:
            missing = NEWCOMER_AUDITS - int(standing.audits)
            said.append(f"passed {checks}; a newcomer for {missing} more, so much of its work is computed twice")
        else:
            one_in = format_count(round(1 / standing.epsilon))
            said.append(f"passed {checks}; at most 1 unchecked result in {one_in} is expected to be wrong")
    if row.mismatches and not standing.is_barred:
        jobs = format_count(row.mismatches, "job")
        said.append(f"computed less precisely than asked in {jobs}; that is no lie, and it was kept out of them")
    answers = row.on_time + row.late - 2.0
    if answers < 0.5:
        said.append("was not asked for anything yet, so nobody knows whether it answers in time")
    else:
        share = round(100 * (row.on_time - 1.0) / answers)
        said.append(f"answered {share}% of {format_count(round(answers), 'frame')} in time")
    return said
