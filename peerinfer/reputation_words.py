"""What is believed of a peer, said as a colleague would say it."""

from __future__ import annotations

from peerinfer.contribution import confirmed_words, contribution_words
from peerinfer.control import Json
from peerinfer.cost import format_flops
from peerinfer.reputation import NEWCOMER_AUDITS, Evidence, Standing
from peerinfer.units import format_count, format_duration
from peerinfer.vouching import Opinion

NOBODY = Opinion()


def own_words(contribution: Json) -> list[str]:
    """Of this node itself: what it gave, and what others confirm of it."""
    if not contribution["tasks"]:
        return ["has computed nothing for others yet"]
    said = [contribution_words(contribution)]
    if confirmed := confirmed_words(contribution):
        said.append(f"confirmed: {confirmed}")
    else:
        said.append("nobody has confirmed any of it today; who had it checked says so about every ten minutes")
    return said


def words_of(row: Evidence, standing: Standing, now_s: float, opinion: Opinion = NOBODY) -> list[str]:
    """One sentence for each judgement, the weightiest first."""
    answers = row.on_time + row.late - 2.0
    said = []
    if not standing.faults and standing.audits < 0.5 and answers < 0.5 and not row.units and not row.mismatches:
        first = "a stranger: it has done nothing for this node yet, so much of its first work is computed twice"
        return [first, *_hearsay(opinion)]
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
            said.append("this node has checked none of its results yet, so much of its work is computed twice")
        elif standing.audits < opinion.probation:
            missing = opinion.probation - int(standing.audits)
            said.append(f"passed {checks}; a newcomer for {missing} more, so much of its work is computed twice")
        elif standing.is_newcomer:
            said.append(f"passed {checks}; with what others say of it, that is enough to be treated like everybody")
        else:
            one_in = format_count(round(1 / standing.epsilon))
            said.append(f"passed {checks}; at most 1 unchecked result in {one_in} is expected to be wrong")
        if standing.is_newcomer:
            said += _hearsay(opinion)
    if row.mismatches and not standing.is_barred:
        jobs = format_count(row.mismatches, "job")
        said.append(f"computed less precisely than asked in {jobs}; that is no lie, and it was kept out of them")
    if answers >= 0.5:
        share = round(100 * (row.on_time - 1.0) / answers)
        said.append(f"answered {share}% of {format_count(round(answers), 'frame')} in time")
    elif not standing.is_barred:
        said.append("this node has not asked it for anything yet, and cannot say whether it answers in time")
    if row.units:
        energy = f" for {row.energy_j / 3600:.3g} Wh, as it says" if row.energy_j else ""
        said.append(f"gave {format_flops(row.units)} of work that counts{energy}")
    return said


def _hearsay(opinion: Opinion) -> list[str]:
    """Whose word counts for a newcomer, and how much."""
    if not opinion.vouchers:
        return []
    trusted = sum(voucher.counted > 0 for voucher in opinion.vouchers)
    who = format_count(len(opinion.vouchers), "peer")
    vouch = "vouches" if len(opinion.vouchers) == 1 else "vouch"
    if not trusted:
        whom = "whom" if len(opinion.vouchers) == 1 else "none of whom"
        verb = "has no reason to trust yet" if len(opinion.vouchers) == 1 else "has a reason to trust yet"
        return [f"{who} {vouch} for it, {whom} this node {verb}, so that counts for nothing"]
    spared = NEWCOMER_AUDITS - opinion.probation
    so = f"it is a newcomer for {spared} checks less" if spared else "too little to spare it a check"
    of_them = "" if trusted == len(opinion.vouchers) else f", {trusted} of which this node trusts"
    return [f"{who} {vouch} for it{of_them}: that is worth {opinion.audits:.2g} checks, {so}"]
