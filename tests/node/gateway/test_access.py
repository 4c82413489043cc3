"""The TCP door: who may come in, and how little those outside can do."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import httpx
import pytest
import trio
from doors import TOKEN, open_door
from trio_websocket import ConnectionRejected

from peerinfer.errors import StateUnusable
from peerinfer_node.gateway import body, server
from peerinfer_node.gateway.access import TOKEN_BYTES, load_token
from peerinfer_node.gateway.server import TcpDoor, open_gateway

# --- the token -----------------------------------------------------------------------------------------------------


def test_a_token_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "api.token"
    token = load_token(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(token) >= TOKEN_BYTES
    assert load_token(path) == token
    assert load_token(tmp_path / "other.token") != token


@pytest.mark.parametrize("content", ["", "short", "with space " * 8, "ü" * 40, "x" * (TOKEN_BYTES - 1)])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "api.token"
    path.touch(0o600)
    path.write_text(content)
    with pytest.raises(StateUnusable, match="remove it for a new one"):
        load_token(path)


def test_a_token_of_exactly_the_least_length_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "api.token"
    path.touch(0o600)
    path.write_text("x" * TOKEN_BYTES + "\n")
    assert load_token(path) == "x" * TOKEN_BYTES


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_token_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "api.token"
    load_token(path)
    path.chmod(mode)
    with pytest.raises(StateUnusable, match="chmod 600"):
        load_token(path)


def test_a_token_file_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    load_token(tmp_path / "elsewhere")
    (tmp_path / "api.token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateUnusable):
        load_token(tmp_path / "api.token")


@pytest.mark.parametrize(
    "path", ["/api/v1/node", "/api/v1/jobs", "/metrics", "/v2", "/nothing", "/docs/../api/v1/node"]
)
@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1], TOKEN.upper()])
async def test_without_the_right_token_nothing_is_told(tmp_path: Path, path: str, token: str | None) -> None:
    async with open_door(tmp_path) as door:
        answer = await door.ask("GET", path, token=token)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "token" in answer.json()["error"]
        assert door.fake.calls == []


async def test_another_scheme_than_bearer_is_no_token(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        for header in (TOKEN, f"Basic {TOKEN}", f"Bearer{TOKEN}"):
            answer = await door.ask("GET", "/api/v1/node", token=None, headers={"Authorization": header})
            assert answer.status_code == 401
        answer = await door.ask("GET", "/api/v1/node", token=None, headers={"Authorization": f"bearer  {TOKEN}"})
        assert answer.status_code == 200


async def test_the_unix_socket_needs_no_token(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        transport = httpx.AsyncHTTPTransport(uds=str(door.socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://any.host") as http:
            assert (await http.get("/api/v1/node")).status_code == 200


# --- the host ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7741", "127.0.0.1.evil.example", "localhost.evil", "192.0.2.1", ""]
)
async def test_a_page_whose_name_points_here_is_refused_even_with_the_token(tmp_path: Path, host: str) -> None:
    async with open_door(tmp_path) as door:
        for path in ("/api/v1/node", "/docs", "/v2/health/live"):
            assert (await door.ask("GET", path, headers={"Host": host})).status_code == 403
        assert door.fake.calls == []


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:99", "127.1.2.3", "[::1]", "[::1]:7741"]
)
async def test_names_of_this_machine_are_answered_to(tmp_path: Path, host: str) -> None:
    async with open_door(tmp_path) as door:
        assert (await door.ask("GET", "/api/v1/node", headers={"Host": host})).status_code == 200


async def test_a_door_on_every_address_asks_for_the_token_alone(tmp_path: Path) -> None:
    # In a container the name is the orchestrator's.
    async with open_door(tmp_path, host="0.0.0.0") as door:
        for token, status in ((None, 401), (TOKEN, 200)):
            answer = await door.ask("GET", "/api/v1/node", token=token, headers={"Host": "node1:7741"})
            assert answer.status_code == status


async def test_a_port_that_is_taken_is_said_in_one_line_and_leaves_no_socket(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        with pytest.raises(StateUnusable, match="--api HOST:PORT"):
            async with open_gateway(door.fake, tmp_path / "q.sock", print, tcp=TcpDoor("127.0.0.1", door.port, TOKEN)):
                pass
        assert not (tmp_path / "q.sock").exists()


# --- too much ------------------------------------------------------------------------------------------------------


async def test_a_large_body_without_the_token_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        stream = await door.connect()
        await stream.send_all(
            b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n" + bytes(65536)
        )
        assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 401")


async def test_a_gigabyte_is_refused_by_its_word(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        stream = await door.connect()
        head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        await stream.send_all(head.encode() + b"Content-Length: 1000000000\r\n\r\n")
        assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 413")


async def test_bodies_held_at_once_have_a_limit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODIES_BYTES_MAX", 100)
    async with open_door(tmp_path) as door:
        head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        head += "Content-Length: 90\r\n\r\n"
        slow = await door.connect()
        await slow.send_all(head.encode() + bytes(80))
        answer = await door.answers(503, "POST", "/api/v1/jobs", content=bytes(30))
        assert answer.headers["retry-after"] == "1"
        await slow.aclose()
        await door.answers(400, "POST", "/api/v1/jobs", content=bytes(100))


async def test_connections_beyond_the_limit_are_told_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TCP_CONNECTIONS_MAX", 3)
    async with open_door(tmp_path) as door:
        idle = [await door.connect() for _ in range(3)]
        answer = await door.answers(503)
        assert answer.headers["retry-after"] == "1"
        transport = httpx.AsyncHTTPTransport(uds=str(door.socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            assert (await http.get("/api/v1/node")).status_code == 200
        await idle.pop().aclose()
        await door.answers(200)


async def test_idle_connections_hold_no_more_files_than_the_limit(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with open_door(tmp_path) as door:
        streams = [await door.connect() for _ in range(server.TCP_CONNECTIONS_MAX + 100)]
        await door.answers(503)
        open_files = len(os.listdir("/proc/self/fd")) - before - len(streams)
        assert server.TCP_CONNECTIONS_MAX <= open_files < server.TCP_CONNECTIONS_MAX + 20
        for stream in streams:
            await stream.aclose()
        await door.answers(200)


async def test_a_connection_that_asks_nothing_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 0.05)
    async with open_door(tmp_path) as door:
        for begun in (b"", b"GET /api/v1/node HTTP/1.1\r\nHost: loc"):
            stream = await door.connect()
            if begun:
                await stream.send_all(begun)
            with trio.fail_after(60):
                assert await stream.receive_some(1) == b""


async def test_a_websocket_without_the_token_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        with pytest.raises(ConnectionRejected) as refused:
            async with door.events(token="wrong"):
                pass
        assert refused.value.status_code == 401
        assert refused.value.body is not None
        assert b"token" in refused.value.body
