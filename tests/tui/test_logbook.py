"""What the window remembers."""

from __future__ import annotations

from dataclasses import replace

from lively_swarm import NOW_S, OWN
from test_table import lively

from peerinfer_tui.event_view import event_sheet
from peerinfer_tui.logbook import EVENTS_MAX, SAMPLES_MAX, Logbook
from peerinfer_tui.pace import WINDOW_S, Pace
from peerinfer_tui.pictures import Handover, LogLine, PeerPicture


def said(logbook: Logbook) -> list[str]:
    return [each.text for _, each in logbook.happenings]


def test_the_first_look_tells_the_elections_there_have_been() -> None:
    logbook = Logbook()
    logbook.take(lively(), NOW_S)
    assert said(logbook)[-1] == "job 7c6e8c1c: beech coordinates in term 2, the lease of the one before ran out"
    assert len(logbook.happenings) == 7
    assert not logbook.own_rates


def test_rates_follow_from_what_was_done_since_the_last_look() -> None:
    logbook, first = Logbook(), lively()
    logbook.take(first, NOW_S)
    jobs = (replace(first.jobs[0], accepted=first.jobs[0].accepted + 4), *first.jobs[1:])
    node = replace(first.node, items_done=first.node.items_done + 60)
    logbook.take(replace(first, node=node, jobs=jobs), NOW_S + 2.0)
    assert list(logbook.own_rates) == [(NOW_S + 2.0, 30.0)]
    ((_, rate),) = logbook.job_rates
    assert abs(rate - 200.0) < 1e-6


def test_two_pictures_within_a_moment_make_no_spike() -> None:
    logbook, picture = Logbook(), lively()
    logbook.take(picture, NOW_S)
    for step in range(1, 61):
        # Each second a picture in which nothing has changed, and ten milliseconds later what was done in that second.
        logbook.take(picture, NOW_S + step - 0.01)
        picture = replace(picture, node=replace(picture.node, items_done=picture.node.items_done + 60))
        logbook.take(picture, NOW_S + step)
    rates = [rate for at_s, rate in logbook.own_rates if at_s >= NOW_S + WINDOW_S]
    assert 45 < min(rates) <= max(rates) < 75


def test_a_clock_that_is_set_back_gives_no_rate() -> None:
    pace = Pace()
    pace.take(NOW_S, 0)
    assert pace.take(NOW_S - 100, 50) is None
    assert pace.take(NOW_S - 98, 60) == 5.0


def test_what_a_restarted_daemon_learns_of_a_job_was_not_done_at_once() -> None:
    logbook, first = Logbook(), lively()
    knows_nothing = tuple(replace(job, accepted=0, final=0) for job in first.jobs)
    logbook.take(replace(first, jobs=knows_nothing), NOW_S)
    logbook.take(first, NOW_S + 2)
    assert list(logbook.job_rates) == [(NOW_S + 2, 0.0)]


def test_events_are_in_the_order_in_which_they_happened_whenever_they_are_told() -> None:
    logbook, first = Logbook(), lively()
    logbook.take(first, NOW_S - 1000)
    late = LogLine(1, NOW_S - 500, "info", "lease won", "")
    ahead = replace(first.jobs[2], handovers=(Handover(7, OWN, NOW_S + 9999, "by a clock that is wrong"),))
    logbook.take(replace(first, log=(late,), jobs=(*first.jobs[:2], ahead)), NOW_S)
    times = [each.at_s for _, each in logbook.happenings]
    assert times == sorted(times)
    assert times[-1] == NOW_S
    assert "lease won" in said(logbook)


def test_terms_that_a_restarted_daemon_learns_anew_are_told_once() -> None:
    logbook, first = Logbook(), lively()
    logbook.take(first, NOW_S)
    told = said(logbook)
    forgotten = tuple(replace(job, handovers=()) for job in first.jobs)
    logbook.take(replace(first, jobs=forgotten), NOW_S + 1)
    logbook.take(first, NOW_S + 2)
    assert said(logbook) == told


def test_a_restarted_daemon_that_counts_anew_makes_no_dip() -> None:
    logbook, first = Logbook(), lively()
    logbook.take(first, NOW_S)
    logbook.take(replace(first, node=replace(first.node, pid=1, items_done=0)), NOW_S + 1)
    assert not logbook.own_rates


def test_a_lost_daemon_and_its_return_are_told_once() -> None:
    logbook = Logbook()
    logbook.take(lively(), NOW_S)
    for second in range(3):
        logbook.lose("no daemon at /run/x", NOW_S + second)
    assert logbook.lost == "no daemon at /run/x"
    assert logbook.snapshot is not None
    logbook.take(lively(), NOW_S + 4)
    assert logbook.lost == ""
    assert said(logbook)[-2:] == ["✕ the daemon does not answer", "● the daemon answers again"]


def test_a_daemon_that_never_answered_is_not_an_event() -> None:
    logbook = Logbook()
    logbook.lose("no daemon", NOW_S)
    assert said(logbook) == []


def test_old_events_and_samples_are_forgotten_and_each_event_keeps_its_number() -> None:
    logbook, first = Logbook(), lively()
    logbook.take(first, NOW_S)
    for step in range(EVENTS_MAX + 300):
        peers = (*first.peers, PeerPicture(peer_id="x", name="x", state="alive" if step % 2 else "suspect"))
        logbook.take(replace(first, peers=peers), NOW_S + step + 1)
    assert len(logbook.happenings) == EVENTS_MAX
    assert len(logbook.own_rates) == min(SAMPLES_MAX, EVENTS_MAX + 300)
    numbers = [number for number, _ in logbook.happenings]
    assert len(set(numbers)) == len(numbers)


def test_the_log_has_the_last_event_on_top() -> None:
    logbook = Logbook()
    logbook.take(lively(), NOW_S)
    records = event_sheet(logbook.happenings).records
    assert "term 2" in records[0][1].text
    assert len({key for key, _ in records}) == len(records)
