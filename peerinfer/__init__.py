"""peerinfer: peer-to-peer volunteer computing for AI inference. This package holds the decisions and the vocabulary.

    import peerinfer

    with peerinfer.connect() as swarm:
        outputs = swarm.submit("model.onnx", {"x": array}).result()

`connect` comes from `peerinfer.client`, which is loaded when it is first used: importing the package costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peerinfer.client import connect as connect

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "connect":
        from peerinfer.client import connect

        return connect
    if name == "aio":
        import peerinfer.aio

        return peerinfer.aio
    raise AttributeError(f"module 'peerinfer' has no attribute {name!r}")
