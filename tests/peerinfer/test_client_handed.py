"""What Python programs hand over: each mistake is one line that says what to give."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import peerinfer
from peerinfer.client import handed
from peerinfer.errors import InputError, PeerinferError, UnknownJob, UsageError

ROWS = np.ones((2, 3), np.float32)


class Tensor:
    """Cannot become an array as it is, like those of PyTorch on a card, or with a gradient."""

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    def __array__(self, *_: object, **__: object) -> None:
        raise self._error("use Tensor.cpu() first")


@pytest.mark.parametrize("url", ["http://127.0.0.1:7741", "https://node.example", "http://[::1]:7741/"])
def test_urls_of_nodes_pass(url: str) -> None:
    handed.check_url(url)


@pytest.mark.parametrize(
    "url", ["foo", "foo:1", "127.0.0.1:7741", "http://", "ftp://x", "http://h:99999", "http://h:0", "http://[::1", 5]
)
def test_what_is_no_url_is_said_before_anybody_is_asked(url: Any) -> None:
    with pytest.raises(UsageError, match="http://HOST:PORT"), peerinfer.connect(url=url):
        pass


@pytest.mark.parametrize(
    "others",
    [{"url": "http://127.0.0.1:9"}, {"invite": "peerinfer:x"}, {"bootstrap": "/ip4/127.0.0.1/tcp/1"}],
    ids=list,
)
def test_who_wants_to_be_alone_is_led_to_nobody_else(others: dict[str, Any]) -> None:
    (which,) = others
    with (
        pytest.raises(UsageError, match=f"standalone computes on this machine alone, {which} leads to others"),
        peerinfer.connect(standalone=True, **others),
    ):
        pass


@pytest.mark.parametrize("connect", [peerinfer.connect, peerinfer.aio.connect])
def test_a_connection_that_was_not_entered_says_how_it_is(connect: Callable[[], Any]) -> None:
    with pytest.raises(AttributeError, match=r"^submit: .* write `(async )?with peerinfer\..*swarm.submit inside"):
        connect().submit("model.onnx", {})
    assert not hasattr(connect(), "infer")


@pytest.mark.parametrize(
    ("act", "kind", "said"),
    [
        (
            lambda: handed.model_of(None),
            UsageError,
            "model: give the path of an .onnx file or its bytes; given nothing",
        ),
        (lambda: handed.model_of(5), UsageError, "given int"),
        (lambda: handed.model_of(onnx.ModelProto()), UsageError, "like model.SerializeToString()"),
        (
            lambda: handed.paths_of(None),
            UsageError,
            "inputs: give arrays by name, like {'x': a}, or files; given nothing",
        ),
        (lambda: handed.paths_of(ROWS), UsageError, "given ndarray"),
        (lambda: handed.paths_of([1]), UsageError, "given list"),
        (lambda: handed.paths_of(b"in.npz"), UsageError, "given bytes"),
        (lambda: handed.arrays_of({}), UsageError, "given nothing"),
        (lambda: handed.arrays_of(ROWS), UsageError, "given ndarray"),
        (lambda: handed.arrays_of({1: ROWS}), UsageError, "1 is no name"),
        (
            lambda: handed.arrays_of({"x": [[1, 2], [3]]}),
            InputError,
            "input 'x': not an array: its parts differ in length",
        ),
        (lambda: handed.arrays_of({"x": Tensor(TypeError)}), InputError, "input 'x': not an array: use Tensor.cpu()"),
        (
            lambda: handed.arrays_of({"x": Tensor(RuntimeError)}),
            InputError,
            "input 'x': not an array: use Tensor.cpu()",
        ),
        (lambda: handed.write_arrays(io.BytesIO(), {"x": np.array([None])}), InputError, "input 'x'"),
        (lambda: handed.check_timeout("5s"), UsageError, "timeout_s: give seconds; given str"),
        (lambda: handed.check_timeout(True), UsageError, "given bool"),
        (lambda: handed.check_timeout(-1), UsageError, "given -1"),
        (lambda: handed.check_timeout(float("nan")), UsageError, "given nan"),
        (lambda: handed.check_timeout(2 * handed.TIMEOUT_S_MAX), UsageError, "given 2"),
        (lambda: handed.check_job(None), UsageError, "job: give the id of a job"),
        (lambda: handed.check_job(""), UnknownJob, "there is no job ''"),
        (lambda: handed.check_job("../node"), UnknownJob, "there is no job '../node'"),
    ],
)
def test_each_mistake_is_one_line(act: Callable[[], Any], kind: type[PeerinferError], said: str) -> None:
    with pytest.raises(kind) as caught:
        act()
    assert type(caught.value) is kind
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_good_passes() -> None:
    assert handed.model_of(bytearray(b"m")) == b"m"
    assert handed.model_of("m.onnx") == handed.model_of(Path("m.onnx")) == str(Path("m.onnx").absolute())
    assert handed.paths_of(Path("a.npz")) == handed.paths_of(["a.npz"]) == [str(Path("a.npz").absolute())]
    assert handed.options_of({"batch": np.int64(3), "verify": "spot"}) == {"batch": 3, "verify": "spot"}
    handed.check_timeout(np.float32(2))
    handed.check_timeout(handed.TIMEOUT_S_MAX)
    handed.check_job("00ff")


@pytest.mark.parametrize("name", ["x", "file", "allow_pickle", "arr_0", "a/b"])
def test_arrays_of_any_name_are_written_as_numpy_reads_them(name: str) -> None:
    file = io.BytesIO()
    handed.write_arrays(file, {name: ROWS, "text": np.array(["a", "bc"])})
    file.seek(0)
    with np.load(file) as found:
        np.testing.assert_array_equal(found[name], ROWS)
        assert found["text"].tolist() == ["a", "bc"]
