"""The control API over a real Unix socket, with a node that is not there behind it."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from fake_control import OTHER, PEER, FakeControl, crash, refusal

from peerinfer.client.daemon import HttpControl
from peerinfer.control import JobRequest, ResultBlock
from peerinfer.errors import (
    Busy,
    DecodeError,
    HomeInUse,
    LimitExceeded,
    NoDaemon,
    NoSuitablePeer,
    PeerinferError,
    StateUnusable,
    StreamClosed,
    UsageError,
)
from peerinfer_node.gateway import body, server
from peerinfer_node.gateway.server import open_gateway

REQUEST = JobRequest("/model.onnx", ("/in.npz",))


class Served:
    """A fake node behind its gateway, with both ways to speak to it."""

    def __init__(self, fake: FakeControl, path: Path) -> None:
        self.fake = fake
        self.path = path
        self.notes: list[str] = []

    @asynccontextmanager
    async def client(self) -> AsyncIterator[HttpControl]:
        async with HttpControl(self.path) as control:
            yield control

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.AsyncHTTPTransport(uds=str(self.path))
        async with httpx.AsyncClient(transport=transport, base_url="http://x", timeout=60) as http:
            return await http.request(method, path, **options)


@asynccontextmanager
async def serving(folder: Path, fake: FakeControl | None = None) -> AsyncIterator[Served]:
    served = Served(fake or FakeControl(), folder / "p.sock")
    with trio.fail_after(120):
        async with open_gateway(served.fake, served.path, served.notes.append):
            yield served


@pytest.fixture
def request_here(tmp_path: Path) -> JobRequest:
    (tmp_path / "model.onnx").write_bytes(b"m")
    (tmp_path / "in.npz").write_bytes(b"i")
    return JobRequest(str(tmp_path / "model.onnx"), (str(tmp_path / "in.npz"),))


async def eventually(check: Any) -> None:
    with trio.fail_after(60):
        while not check():  # noqa: ASYNC110  # what is waited for has no event
            await trio.sleep(0.01)


# --- the same through HTTP as embedded ---------------------------------------------------------------------------------


async def test_every_answer_comes_through_as_the_node_gave_it(tmp_path: Path, request_here: JobRequest) -> None:
    async with serving(tmp_path) as served, served.client() as control:
        assert (await control.status())["peer_id"] == PEER
        assert (await control.peers())[0]["peer_id"] == OTHER
        assert (await control.why(request_here.model))[0]["eligible"] is False
        assert await control.devices() == await served.fake.devices()
        assert await control.models() == await served.fake.models()
        job = await control.submit(request_here)
        assert await control.job(job) == await served.fake.job(job)
        assert [each["job_id"] for each in await control.jobs()] == [job]
        assert (await control.provenance(job))["job_id"] == job


async def test_the_request_arrives_whole(tmp_path: Path, request_here: JobRequest) -> None:
    request = JobRequest(
        request_here.model, request_here.inputs, batch=3, rtol=0.5, image_size=(4, 5), image_mean=(0.1, 0.2, 0.3)
    )
    async with serving(tmp_path) as served, served.client() as control:
        await control.submit(request)
        assert ("submit", request) in served.fake.calls


async def test_the_owners_switch_reaches_the_node(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, served.client() as control:
        await control.pause(until_s=2e9)
        assert (await control.status())["reasons"] == [{"reason": "paused by its owner", "until": 2e9}]
        await control.pause(until_s=None)
        await control.resume()
        await control.finish()
        await control.leave()
        asked = [call for call in served.fake.calls if call[0] in ("pause", "resume", "finish", "leave")]
        assert asked == [("pause", 2e9), ("pause", None), ("resume", None), ("finish", None), ("leave", None)]


async def test_a_job_is_watched_to_its_end_and_its_results_come_whole(tmp_path: Path, request_here: JobRequest) -> None:
    async with serving(tmp_path, FakeControl(items=7, items_per_task=2)) as served, served.client() as control:
        job = await control.submit(request_here)
        pictures = [picture async for picture in control.watch(job)]
        assert pictures[0]["state"] == "running"
        assert pictures[-1]["state"] == "done"
        assert [picture["accepted"] for picture in pictures] == sorted(picture["accepted"] for picture in pictures)
        found = np.zeros((7, 2), np.float32)
        async for block in control.results(job):
            found[block.first_item : block.first_item + block.items] = block.rows["y"]
        np.testing.assert_array_equal(found[:, 0], np.arange(7))


async def test_watching_a_job_that_has_ended_says_so_once(tmp_path: Path, request_here: JobRequest) -> None:
    async with serving(tmp_path) as served, served.client() as control:
        job = await control.submit(request_here)
        await control.cancel(job)
        assert [picture["state"] async for picture in control.watch(job)] == ["cancelled"]


@pytest.mark.parametrize(
    "error",
    [
        refusal(),
        UsageError("usage"),
        NoSuitablePeer("nobody"),
        LimitExceeded("jobs", current=1000, attempted=1, limit=1000, unit="jobs"),
        Busy("full; try again in about 2m", retry_after_s=120.0),
    ],
)
async def test_an_error_of_the_node_is_raised_as_the_same_kind_with_the_same_line(
    tmp_path: Path, error: PeerinferError
) -> None:
    fake = FakeControl()
    async with serving(tmp_path, fake) as served, served.client() as control:
        for call in ("status", "job", "submit", "watch", "results"):
            fake.errors[call] = error
        for ask in (control.status, lambda: control.job("x"), lambda: control.submit(REQUEST)):
            with pytest.raises(type(error)) as caught:
                await ask()
            assert str(caught.value) == str(error)
        for stream in (control.watch, control.results):
            with pytest.raises(type(error)) as caught:
                async for _ in stream("x"):
                    pass
            assert str(caught.value) == str(error)
        response = await served.ask("GET", "/api/v1/node")
        assert response.status_code == error.http_status
        assert response.json() == {"error": str(error), "kind": type(error).__name__}


async def test_a_busy_node_says_when_to_come_back(tmp_path: Path, request_here: JobRequest) -> None:
    fake = FakeControl()
    fake.errors["submit"] = Busy("full; try again in about 2m", retry_after_s=119.5)
    async with serving(tmp_path, fake) as served:
        response = await served.ask("POST", "/api/v1/jobs", json=json.loads(request_here.to_json()))
        assert response.status_code == 503
        assert response.headers["retry-after"] == "120"


async def test_an_unexpected_error_goes_to_the_log_and_not_to_the_client(tmp_path: Path) -> None:
    fake = FakeControl()
    fake.errors["status"] = fake.errors["watch"] = crash()
    async with serving(tmp_path, fake) as served:
        for path in ("/api/v1/node", "/api/v1/jobs/x/watch"):
            response = await served.ask("GET", path)
            assert response.status_code == 500
            assert "secret" not in response.text
            assert "Traceback" not in response.text
            assert response.json()["kind"] == "PeerinferError"
        assert len(served.notes) == 2
        assert all("secret" in note and "\n" not in note for note in served.notes)


async def test_an_error_in_the_middle_of_results_is_raised_after_what_came_before(
    tmp_path: Path, request_here: JobRequest
) -> None:
    fake = FakeControl()

    async def breaks(job: str) -> AsyncIterator[ResultBlock]:
        yield ResultBlock(0, 1, {"y": np.zeros((1, 2), np.float32)})
        raise StateUnusable("a record is not whole")

    fake.results = breaks  # type: ignore[method-assign]
    async with serving(tmp_path, fake) as served, served.client() as control:
        job = await control.submit(request_here)
        results = control.results(job)
        assert (await anext(results)).items == 1
        with pytest.raises(StateUnusable, match="a record is not whole"):
            await anext(results)


async def test_an_error_in_the_middle_of_watching_is_raised(tmp_path: Path, request_here: JobRequest) -> None:
    fake = FakeControl()

    async def breaks(job: str) -> AsyncIterator[dict[str, Any]]:
        yield {"state": "running"}
        raise crash()

    fake.watch = breaks  # type: ignore[method-assign]
    async with serving(tmp_path, fake) as served, served.client() as control:
        job = await control.submit(request_here)
        with pytest.raises(PeerinferError, match="its log says why"):
            async for _ in control.watch(job):
                pass
        assert "secret" in served.notes[0]


# --- wrong requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/api/v1", 404),
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v1/jobs/a/b/c", 404),
        ("GET", "/api/v1/jobs/..%2f..%2fetc", 404),
        ("GET", "/api/v1/jobs/0000", 404),
        ("DELETE", f"/api/v1/jobs/{'0' * 32}", 404),
        ("GET", "/api/v1/jobs/no-hex/results", 404),
        ("GET", "/api/v1/jobs/no-hex/watch", 404),
        ("GET", "/api/v1/node/", 404),
        ("POST", "/api/v1/node", 405),
        ("DELETE", "/api/v1/jobs", 405),
        ("GET", "/api/v1/node/pause", 405),
        ("PUT", "/api/v1/jobs/x", 405),
        ("GET", "/api/v1/jobs/unknown", 404),
        ("DELETE", "/api/v1/jobs/unknown", 404),
        ("GET", "/api/v1/jobs/unknown/watch", 404),
        ("GET", "/api/v1/jobs/unknown/results", 404),
        ("GET", "/api/v1/peers?why=relative.onnx", 400),
        ("GET", "/api/v1/peers?why=/no/such/model", 400),
        ("GET", "/api/v1/peers?why=/a%00b", 400),
    ],
)
async def test_what_is_not_there_is_refused_in_one_line(tmp_path: Path, method: str, path: str, status: int) -> None:
    async with serving(tmp_path) as served:
        response = await served.ask(method, path)
        assert response.status_code == status
        assert set(response.json()) == {"error", "kind"}
        assert "\n" not in response.json()["error"]


GOOD = {"model": "/m.onnx", "inputs": ["/in.npz"]}


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"model":' * 50_000,
        b"1" * 10_000,
        json.dumps({}).encode(),
        json.dumps({**GOOD, "unknown": 1}).encode(),
        json.dumps({**GOOD, "batch": "many"}).encode(),
        json.dumps({**GOOD, "batch": 0}).encode(),
        json.dumps({**GOOD, "model": 5}).encode(),
        json.dumps({**GOOD, "model": "m.onnx"}).encode(),
        json.dumps({**GOOD, "model": "/m\0"}).encode(),
        json.dumps({**GOOD, "inputs": "/in.npz"}).encode(),
        json.dumps({**GOOD, "inputs": [7]}).encode(),
        json.dumps({**GOOD, "inputs": ["in.npz"]}).encode(),
        json.dumps({**GOOD, "inputs": []}).encode(),
        json.dumps({**GOOD, "verify": "quorum:1"}).encode(),
        json.dumps({**GOOD, "verify": None}).encode(),
        json.dumps({**GOOD, "image_size": [1]}).encode(),
        json.dumps({**GOOD, "image_size": "large"}).encode(),
        json.dumps({**GOOD, "image_std": [0]}).encode(),
        json.dumps({**GOOD, "detach": "yes"}).encode(),
        json.dumps({**GOOD, "timeout_s": float("nan")}).encode(),
        json.dumps({**GOOD, "rtol": -1}).encode(),
    ],
)
async def test_a_request_that_is_none_is_refused_and_never_reaches_the_node(tmp_path: Path, sent: bytes) -> None:
    async with serving(tmp_path) as served:
        response = await served.ask("POST", "/api/v1/jobs", content=sent)
        assert response.status_code == 400, response.text
        assert response.json()["kind"] == "UsageError"
        assert served.fake.calls == []
        assert served.notes == []


@pytest.mark.parametrize(
    "sent",
    [b"{", b"[]", b'{"until_s": "soon"}', b'{"until_s": NaN}', b'{"until_s": -1}', b'{"until_s": true}', b'{"x": 1}'],
)
async def test_a_pause_without_a_sensible_end_is_refused(tmp_path: Path, sent: bytes) -> None:
    async with serving(tmp_path) as served:
        assert (await served.ask("POST", "/api/v1/node/pause", content=sent)).status_code == 400
        assert served.fake.state == "running"


async def test_a_pause_may_come_without_a_body(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        assert (await served.ask("POST", "/api/v1/node/pause")).status_code == 204
        assert ("pause", None) in served.fake.calls


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/node/pause", "/nowhere"])
async def test_a_body_that_is_too_large_is_refused_and_the_next_request_is_served(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path) as served:
        response = await served.ask("POST", path, content=b"x" * (body.REQUEST_BYTES_MAX + 1))
        assert response.status_code == 413
        assert "8 MiB" in response.json()["error"]
        assert (await served.ask("GET", "/api/v1/node")).status_code == 200


async def test_a_body_of_just_the_limit_is_read(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        response = await served.ask("POST", "/api/v1/jobs", content=b" " * body.REQUEST_BYTES_MAX)
        assert response.status_code == 400


async def test_a_body_that_never_comes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "REQUEST_TIMEOUT_S", 0.1)
    async with serving(tmp_path) as served:
        stream = await trio.open_unix_socket(str(served.path))
        await stream.send_all(b"POST /api/v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
        assert b"408" in bytes(await stream.receive_some(4096))
        await stream.aclose()


@pytest.mark.parametrize(
    "sent", [b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"x" * 100_000, b"GET /api/v1/node HTTP/1.1\r\n\r\n"]
)
async def test_bytes_that_are_not_http_end_their_connection_and_nothing_else(tmp_path: Path, sent: bytes) -> None:
    async with serving(tmp_path) as served:
        stream = await trio.open_unix_socket(str(served.path))
        await stream.send_all(sent)
        answer = bytearray()
        with trio.move_on_after(2), suppress(trio.BrokenResourceError):
            while data := await stream.receive_some(65536):
                answer += data
        await stream.aclose()
        assert not answer or answer.startswith(b"HTTP/1.1 4")
        assert (await served.ask("GET", "/api/v1/node")).status_code == 200


# --- streams and clients that go away ----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["watch", "results"])
async def test_a_client_that_disappears_ends_its_stream(tmp_path: Path, what: str, request_here: JobRequest) -> None:
    fake = FakeControl(task_s=3600)
    if what == "results":
        fake = EndlessResults()
    async with serving(tmp_path, fake) as served, served.client() as control:
        job = await control.submit(request_here)
        stream = await trio.open_unix_socket(str(served.path))
        await stream.send_all(f"GET /api/v1/jobs/{job}/{what} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert b"200" in bytes(await stream.receive_some(100))
        assert fake.streams_open == 1
        await stream.aclose()
        await eventually(lambda: fake.streams_open == 0)
        assert served.notes == []


class EndlessResults(FakeControl):
    async def results(self, job: str) -> AsyncIterator[ResultBlock]:
        self.streams_open += 1
        try:
            while True:
                await trio.lowlevel.checkpoint()
                yield ResultBlock(0, 1, {"y": np.zeros((1, 100_000), np.float32)})
        finally:
            self.streams_open -= 1


async def test_a_client_that_stops_reading_does_not_hold_up_the_end_of_the_node(
    tmp_path: Path, request_here: JobRequest
) -> None:
    fake = EndlessResults()
    stream = None
    with trio.fail_after(server.WRITE_TIMEOUT_S / 2):
        async with serving(tmp_path, fake) as served, served.client() as control:
            job = await control.submit(request_here)
            stream = await trio.open_unix_socket(str(served.path))
            await stream.send_all(f"GET /api/v1/jobs/{job}/results HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            await eventually(lambda: fake.streams_open == 1)
    assert fake.streams_open == 0
    await stream.aclose()


async def test_a_client_that_stops_reading_is_given_up(
    tmp_path: Path, request_here: JobRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "WRITE_TIMEOUT_S", 0.2)
    fake = EndlessResults()
    async with serving(tmp_path, fake) as served, served.client() as control:
        job = await control.submit(request_here)
        stream = await trio.open_unix_socket(str(served.path))
        await stream.send_all(f"GET /api/v1/jobs/{job}/results HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert b"200" in bytes(await stream.receive_some(100))
        await eventually(lambda: fake.streams_open == 0)
        await stream.aclose()


async def test_a_cancelled_node_takes_its_gateway_with_it_at_once(tmp_path: Path, request_here: JobRequest) -> None:
    fake = EndlessResults()
    served = None
    with trio.fail_after(server.WRITE_TIMEOUT_S / 2), trio.CancelScope() as scope:
        async with serving(tmp_path, fake) as served, served.client() as control:
            job = await control.submit(request_here)
            stream = await trio.open_unix_socket(str(served.path))
            await stream.send_all(f"GET /api/v1/jobs/{job}/results HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            await eventually(lambda: fake.streams_open == 1)
            scope.cancel()
            await trio.sleep_forever()
    assert served is not None
    assert not served.path.exists()


async def test_a_stream_that_the_daemon_cuts_off_is_an_error_and_no_short_result(
    tmp_path: Path, request_here: JobRequest
) -> None:
    fake = FakeControl(task_s=3600)
    async with trio.open_nursery() as nursery, HttpControl(tmp_path / "p.sock") as control:
        is_up, goes_down = trio.Event(), trio.Event()

        async def daemon() -> None:
            async with serving(tmp_path, fake):
                is_up.set()
                await goes_down.wait()

        nursery.start_soon(daemon)
        await is_up.wait()
        job = await control.submit(request_here)
        pictures = control.watch(job)
        assert (await anext(pictures))["state"] == "running"
        goes_down.set()
        with pytest.raises(StreamClosed):
            await anext(pictures)


async def test_the_answer_to_leave_arrives_before_the_gateway_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "GRACE_S", 60.0)  # it is not waited for where nothing is under way any more
    fake = FakeControl()
    async with trio.open_nursery() as nursery:
        is_up = trio.Event()

        async def daemon() -> None:
            async with serving(tmp_path, fake):
                is_up.set()
                await fake.has_left.wait()

        nursery.start_soon(daemon)
        await is_up.wait()
        async with HttpControl(tmp_path / "p.sock") as control:
            await control.leave()


async def test_many_clients_at_once_are_all_served(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, served.client() as control:
        answers: list[Any] = []

        async def ask() -> None:
            answers.append((await control.status())["peer_id"])

        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(ask)
        assert answers == [PEER] * 64


# --- the socket --------------------------------------------------------------------------------------------------------


async def test_only_the_owner_may_open_the_socket_and_it_is_gone_afterwards(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with serving(tmp_path) as served:
            assert stat.S_IMODE(served.path.stat().st_mode) == 0o700
            assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert not served.path.exists()


async def test_a_socket_that_a_killed_node_left_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "p.sock"))
    async with serving(tmp_path) as served, served.client() as control:
        assert (await control.status())["peer_id"] == PEER


async def test_a_second_node_on_the_same_socket_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, served.client() as control:
        with pytest.raises(HomeInUse, match="peerinfer leave"):
            async with open_gateway(FakeControl(), served.path, print):
                pass
        assert (await control.status())["peer_id"] == PEER


async def test_a_file_in_the_sockets_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "p.sock").write_text("mine")
    with pytest.raises(StateUnusable, match="is not a socket"):
        async with serving(tmp_path):
            pass
    assert (tmp_path / "p.sock").read_text() == "mine"


async def test_a_socket_path_that_is_too_long_is_said_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    with pytest.raises(StateUnusable, match="too long"):
        async with serving(folder):
            pass


async def test_without_a_daemon_every_call_says_how_to_start_one(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "stale.sock"))
    for name in ("nothing.sock", "stale.sock", "x" * 200):
        async with HttpControl(tmp_path / name) as control:
            with pytest.raises(NoDaemon, match="peerinfer join"):
                await control.status()
            with pytest.raises(NoDaemon, match="peerinfer join"):
                async for _ in control.watch("x"):
                    pass


async def test_a_program_that_is_not_a_daemon_is_an_error_and_no_crash(tmp_path: Path) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
        await stream.aclose()

    listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listening.bind(str(tmp_path / "p.sock"))
    listening.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [trio.SocketListener(listening)])
        async with HttpControl(tmp_path / "p.sock") as control:
            with pytest.raises(DecodeError, match="not JSON"):
                await control.status()
        nursery.cancel_scope.cancel()
