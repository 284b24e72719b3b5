"""The guard in front of the HTTP app: how much at once, and who is too slow. In one event loop."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvicorn

from plesio.web import guard as guarding
from plesio.web.door import Door
from plesio.web.guard import Guard

TOKEN = "0123456789abcdef"
WAIT_S = 30.0


class Caller:
    """One request, and what is answered."""

    def __init__(self, guard: Guard, *parts: bytes, path: str = "/v1/x", token: str = TOKEN) -> None:
        self.guard = guard
        self.parts = list(parts)
        self.scope: dict[str, Any] = {
            "type": "http", "path": path, "method": "POST", "client": ("10.0.0.1", 7),
            "headers": [(b"authorization", f"Bearer {token}".encode())] if token else [],
        }  # fmt: skip
        self.left = asyncio.Event()
        self.sent: list[Any] = []
        self.stuck = False  # it reads nothing

    async def receive(self) -> dict[str, Any]:
        if not self.parts:
            await self.left.wait()
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self.parts.pop(0), "more_body": True}

    async def send(self, message: Any) -> None:
        if self.stuck:
            await asyncio.Event().wait()
        self.sent.append(message)

    async def run(self) -> int:
        """The status; 0: nothing was answered."""
        await asyncio.wait_for(self.guard(self.scope, self.receive, self.send), WAIT_S)
        return int(self.sent[0]["status"]) if self.sent else 0

    def header(self, name: bytes) -> bytes:
        return dict(self.sent[0]["headers"]).get(name, b"")


class End(Caller):
    """Its body ends."""

    async def receive(self) -> dict[str, Any]:
        if not self.parts:
            return await super().receive()
        return {"type": "http.request", "body": self.parts.pop(0), "more_body": bool(self.parts)}


class App:
    """Answers when it may, and tells what has become of it."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.running = self.cancelled = 0
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.running += 1
        try:
            self.bodies.append((await receive())["body"])
            await self.may.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


def refused_by(seen: list[tuple[str, str]]) -> Callable[[str, str], None]:
    return lambda peer, reason: seen.append((peer, reason))


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.001)


@in_loop
async def test_more_requests_than_may_be_under_way_are_told_when_to_try_again() -> None:
    app = App()
    guard = Guard(app, TOKEN, refused_by([]))
    work = [asyncio.create_task(End(guard, b"").run()) for _ in range(guarding.MOST_REQUESTS)]
    await until(lambda: app.running == guarding.MOST_REQUESTS)
    late = End(guard, b"")
    assert await late.run() == 429 and late.header(b"retry-after") == b"1"
    assert json.loads(late.sent[1]["body"])["kind"] == "busy"
    app.may.set()
    assert set(await asyncio.gather(*work)) == {200} and guard.requests == 0
    assert await End(guard, b"").run() == 200


@in_loop
async def test_bodies_hold_so_many_bytes_together_and_no_more() -> None:
    app = App()
    guard = Guard(app, TOKEN, refused_by([]))
    body = b" " * guarding.BODY_BYTES
    work = [asyncio.create_task(End(guard, body).run()) for _ in range(guarding.ALL_BYTES // guarding.BODY_BYTES)]
    await until(lambda: app.running == len(work))
    assert await End(guard, b" ").run() == 429
    app.may.set()
    await asyncio.gather(*work)
    assert guard.held_bytes == 0 and set(app.bodies) == {body}
    assert await End(guard, body, b" ").run() == 413 and guard.held_bytes == 0


@in_loop
async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    guard = Guard(App(), TOKEN, refused_by([]), body_s=0.01)
    assert await Caller(guard, b"part").run() == 408 and guard.held_bytes == 0


@in_loop
async def test_a_client_that_leaves_ends_its_request() -> None:
    app = App()
    guard = Guard(app, TOKEN, refused_by([]))
    caller = End(guard, b"")
    work = asyncio.create_task(caller.run())
    await until(lambda: app.running == 1)
    caller.left.set()
    assert await work == 0 and app.cancelled == 1 and guard.requests == 0


@in_loop
async def test_a_client_that_reads_nothing_is_dropped() -> None:
    app = App()
    app.may.set()
    caller = End(Guard(app, TOKEN, refused_by([]), slow_s=0.01), b"")
    caller.stuck = True
    assert await caller.run() == 0 and app.cancelled == 1


@in_loop
async def test_without_the_token_nothing_is_read_and_the_refusal_is_told() -> None:
    app, seen = App(), list[tuple[str, str]]()
    app.may.set()
    guard = Guard(app, TOKEN, refused_by(seen))
    for token in ("", TOKEN[:-1], TOKEN + "x", "ü"):
        caller = End(guard, b"body", token=token)
        assert await caller.run() == 401 and caller.parts == [b"body"]
        assert caller.header(b"www-authenticate").startswith(b"Bearer")
    assert seen == [("10.0.0.1", f"HTTP: {why}") for why in ("there is no token", *["the token is wrong"] * 3)]
    assert await End(guard, b"", path="/health", token="").run() == 200
    assert app.bodies == [b""] and TOKEN not in str(seen)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHos", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /"])
def test_a_connection_without_a_whole_request_is_closed(said: bytes) -> None:
    class Quick(Door):
        idle_s = 0.05

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(said)  # it is there when the connection is taken: however slow we are, it came in time
        server = uvicorn.Server(uvicorn.Config(app, http=Quick, ws="none", lifespan="off", log_level="error"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        answered = await asyncio.wait_for(reader.read(), WAIT_S)
        assert answered.startswith(b"HTTP/1.1 200") == said.endswith(b"GET /")
        writer.close()
        server.should_exit = True
        await serving

    asyncio.run(run())
