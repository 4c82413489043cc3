"""Use a swarm from Python: `peerinfer.connect()` and `peerinfer.aio.connect()`.

This subpackage is the one part of `peerinfer` that touches the world: it speaks HTTP to a node.
"""

from peerinfer.client.blocking import Job, Swarm, connect
from peerinfer.client.results import Item

__all__ = ["Item", "Job", "Swarm", "connect"]
