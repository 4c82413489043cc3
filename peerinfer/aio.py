"""`peerinfer.connect()` for asynchronous programs, under asyncio and trio alike."""

from peerinfer.client.asynchronous import Job, Swarm, connect
from peerinfer.client.results import Item

__all__ = ["Item", "Job", "Swarm", "connect"]
