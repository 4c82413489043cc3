"""What ONNX Runtime says when it fails, without what only its programmers can use: numbers, source files, signatures."""

from __future__ import annotations

import re

_NODE = re.compile(
    r"Non-zero status code returned while running (\S+) node\. Name:'(.*?)' Status Message: (.*)", re.DOTALL
)
_SOURCE = re.compile(r"^/\S+:\d+ .*?\(.*?\) (?:const )?(?:\[with .*?\] )?", re.DOTALL)
_MEMORY = re.compile(r"(std::)?bad_alloc|bad allocation", re.IGNORECASE)


def plain_words(message: str) -> str:
    """The end of the message, with the operator that failed and the node's name where it has one."""
    if message.startswith("[ONNXRuntimeError]"):
        message = message.split(" : ", 3)[-1]
    found = _NODE.match(message)
    if found is None:
        return _MEMORY.sub("not enough memory", _SOURCE.sub("", message))
    operator, name, words = found.groups()
    words = _MEMORY.sub("not enough memory", _SOURCE.sub("", words))
    return f"{operator} {name!r}: {words}" if name else f"{operator}: {words}"
