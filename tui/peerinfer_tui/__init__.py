"""The window: a terminal dashboard over the control API. Runs on asyncio, as a process of its own, and decides nothing."""
