"""Statements of what a node gave: whole, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from peerinfer.contribution import (
    CONFIRMATIONS_MAX,
    Contribution,
    contribution_words,
    from_shown,
    read_confirmations,
    read_statement,
    statement_of,
)
from peerinfer.cost import Given
from peerinfer.envelope import seal
from peerinfer.errors import InputError
from peerinfer.evidence_messages import Attestation, Attested
from peerinfer.ids import public_key_of
from peerinfer_node.keys import MemoryKeys

ANN, EVE = MemoryKeys(b"ann"), MemoryKeys(b"eve")
GIVEN = Contribution(1_800_000_000.0, 1_800_003_600.0, 40, 80, 12.5, 7200.0, 3e12)


def statement() -> dict[str, Any]:
    return dict(json.loads(statement_of(GIVEN, ANN.peer_id, ANN.sign)))


def test_a_statement_says_who_made_it_and_what_they_gave() -> None:
    assert read_statement(statement_of(GIVEN, ANN.peer_id, ANN.sign)) == (ANN.peer_id, GIVEN)
    assert from_shown(GIVEN.shown()) == GIVEN
    assert contribution_words(GIVEN.shown()).startswith("40 tasks, 80 items for others in ")
    assert "2 Wh" in contribution_words(GIVEN.shown())


def test_what_was_given_adds_up() -> None:
    assert GIVEN.plus(Given(2, 3, 1.5, 0.0, 1e12)) == Contribution(
        GIVEN.since_s, GIVEN.until_s, 42, 83, 14.0, 7200.0, 4e12
    )


def signed(message: Any, keys: MemoryKeys) -> str:
    return seal(message, keys.peer_id, keys.sign).hex()


ALTERED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "more tasks": lambda made: made["contribution"].update(tasks=4000),
    "less energy": lambda made: made["contribution"].update(energy_j=0.0),
    "another name": lambda made: made.update(peer_id=EVE.peer_id),
    "another's signature": lambda made: made.update(signed=signed(GIVEN, EVE)),
    "a signature short of a byte": lambda made: made.update(signed=made["signed"][:-2]),
    "a bit turned": lambda made: made.update(signed=made["signed"][:-1] + ("0" if made["signed"][-1] != "0" else "1")),
    "no signature": lambda made: made.pop("signed"),
    "a number for a signature": lambda made: made.update(signed=7),
    "figures that are no table": lambda made: made.update(contribution=[1]),
    "another format": lambda made: made.update(format="peerinfer/contribution/2"),
}


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED)
def test_a_statement_that_was_altered_is_refused_in_one_line(alter: Callable[[dict[str, Any]], Any]) -> None:
    made = statement()
    alter(made)
    with pytest.raises(InputError, match="statement") as refused:
        read_statement(json.dumps(made))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "[" * 5000, '{"format": 1}'])
def test_what_is_no_statement_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no statement"):
        read_statement(text)


@pytest.mark.parametrize(
    "wrong",
    [
        Contribution(2.0, 1.0, 1, 1, 1.0, 1.0),
        Contribution(-1.0, 1.0, 1, 1, 1.0, 1.0),
        Contribution(0.0, 1.0, 1, 1, -1.0, 1.0),
        Contribution(0.0, 1.0, 1, 1, 1.0, -1.0),
        Contribution(0.0, 1.0, 1, 1, 1.0, 1.0, -1.0),
    ],
)
def test_figures_that_cannot_be_are_refused_however_well_they_are_signed(wrong: Contribution) -> None:
    with pytest.raises(InputError, match="cannot be"):
        read_statement(statement_of(wrong, EVE.peer_id, EVE.sign))


@pytest.mark.parametrize("shown", [{}, {"since": "x"}, dict.fromkeys(GIVEN.shown()), GIVEN.shown() | {"tasks": "many"}])
def test_a_daemon_that_does_not_say_is_told_apart(shown: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="older version"):
        from_shown(shown)


def confirmation(of: MemoryKeys, by: MemoryKeys = EVE) -> str:
    said = Attestation(1_800_000_000.0, 1_800_003_600.0, (Attested(public_key_of(of.peer_id), 2e12, 9),))
    return signed(said, by)


def test_others_confirm_a_statement_under_their_own_names() -> None:
    text = statement_of(GIVEN, ANN.peer_id, ANN.sign, [confirmation(ANN), confirmation(ANN)])
    assert read_statement(text) == (ANN.peer_id, GIVEN)
    assert read_confirmations(text, ANN.peer_id) == [(EVE.peer_id, 2e12)]


FALSE_CONFIRMATIONS = {
    "about somebody else": [confirmation(EVE, by=ANN)],
    "of oneself": [confirmation(ANN, by=ANN)],
    "damaged": [confirmation(ANN)[:-2] + "00"],
    "no text": [7],
    "no list": "x",
    "too many": [confirmation(ANN)] * (CONFIRMATIONS_MAX + 1),
    "another statement": [signed(GIVEN, EVE)],
}


@pytest.mark.parametrize("false", FALSE_CONFIRMATIONS.values(), ids=FALSE_CONFIRMATIONS)
def test_a_false_confirmation_spoils_the_statement(false: Any) -> None:
    made = statement() | {"confirmations": false}
    with pytest.raises(InputError, match="confirmation") as refused:
        read_confirmations(json.dumps(made), ANN.peer_id)
    assert "\n" not in str(refused.value)
