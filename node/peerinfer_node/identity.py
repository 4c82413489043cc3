"""The identity of a home, and what has to be there from its first moment on: the memory of an elector.

An identity without that memory is taken for one that lost it: it may have promised something, so it refuses the seats of
older jobs. Whoever makes the key makes the memory with it, whether that is a node, `peerinfer id` or `swarm create`.
"""

from __future__ import annotations

from peerinfer_node.home import Home
from peerinfer_node.keys import FileKeys
from peerinfer_node.seat_store import SqliteSeatStore


def load_identity(home: Home) -> FileKeys:
    """The key of this home, made if there is none. Raises `StateUnusable`."""
    is_new = not home.identity_key.exists()
    keys = FileKeys.load_or_create(home.identity_key)
    if is_new:
        SqliteSeatStore.open(home.seats_db, is_new_node=True).close()
    return keys
