"""An identity comes with the memory of an elector, so that a new home is not taken for one that lost it."""

import pytest

from peerinfer_node.home import Home
from peerinfer_node.identity import load_identity
from peerinfer_node.seat_store import SqliteSeatStore


@pytest.fixture
def home(tmp_path):
    home = Home.resolve({}, tmp_path)
    home.prepare()
    return home


async def forgot_at_s(home):
    with SqliteSeatStore.open(home.seats_db, is_new_node=False) as seats:
        return await seats.forgot_at_s()


async def test_a_home_whose_identity_was_made_before_its_node_has_forgotten_nothing(home):
    first = load_identity(home).peer_id
    assert load_identity(home).peer_id == first
    assert await forgot_at_s(home) is None


async def test_an_identity_that_was_brought_from_elsewhere_may_have_forgotten(home):
    load_identity(home)
    home.seats_db.unlink()
    load_identity(home)
    assert await forgot_at_s(home) is not None
