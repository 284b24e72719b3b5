"""Channels over real sockets: order, integrity, authentication, limits."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from plesio.errors import PortInUse, TokenRefused, WireError
from plesio.wire import channel as wire
from plesio.wire.frames import Limits, header, lengths

TOKEN = "a" * 32


class Host:
    """A server that keeps what it got."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, bytes | None]] = []
        self.closed: list[Exception | None] = []
        self.refused: list[str] = []
        self.channels: list[wire.Channel] = []
        self.arrived = asyncio.Event()
        self.expected = 1

    async def start(self, echo: bool = False) -> tuple[wire.Server, int]:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)

        def on_message(channel: wire.Channel, body: bytes, payload: memoryview | None) -> None:
            self.got.append((bytes(body), bytes(payload) if payload is not None else None))
            if echo:
                channel.send(bytes(body))
            if len(self.got) >= self.expected:
                self.arrived.set()

        server = await wire.serve(
            listener,
            token=TOKEN,
            on_channel=self.channels.append,
            on_message=on_message,
            on_close=lambda channel, error: self.closed.append(error),
            on_refused=lambda peer, reason: self.refused.append(reason),
        )
        return server, listener.getsockname()[1]


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(main(), 30)

    return asyncio.run(bounded())


def ignore(*_: Any) -> None:
    pass


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen within 5 s")


def test_ten_thousand_messages_come_back_in_order() -> None:
    async def main() -> None:
        host = Host()
        server, port = await host.start(echo=True)
        back: list[bytes] = []
        channel = await wire.connect(
            "127.0.0.1", port, TOKEN, "learner", "control", lambda c, b, p: back.append(bytes(b)), ignore
        )
        for number in range(10_000):
            channel.send(str(number).encode())
            if number % 500 == 0:
                await asyncio.sleep(0)
        await until(lambda: len(back) == 10_000)
        assert back == [str(n).encode() for n in range(10_000)]
        assert channel.bytes_sent == host.channels[0].bytes_received
        assert channel.bytes_received == host.channels[0].bytes_sent
        await server.close()

    run(main)


def test_payloads_and_control_frames_never_mix() -> None:
    async def main() -> None:
        host = Host()
        server, port = await host.start()
        host.expected = 8
        channel = await wire.connect("127.0.0.1", port, TOKEN, "learner", "bulk", ignore, ignore)
        payloads = [random.Random(n).randbytes(size) for n, size in enumerate((1, 300_000, 5_000_000, 20_000_000))]
        sends = [asyncio.create_task(channel.send_bulk(f"bulk {n}".encode(), p)) for n, p in enumerate(payloads)]
        for number in range(4):
            await asyncio.sleep(0)
            channel.send(f"control {number}".encode())
        await asyncio.gather(*sends)
        await host.arrived.wait()
        bulk = [(b, p) for b, p in host.got if b.startswith(b"bulk")]
        assert bulk == [(f"bulk {n}".encode(), p) for n, p in enumerate(payloads)]
        assert [b for b, _ in host.got if b.startswith(b"control")] == [f"control {n}".encode() for n in range(4)]
        await server.close()

    run(main)


def test_a_long_body_arrives() -> None:
    async def main() -> None:
        host = Host()
        server, port = await host.start()
        channel = await wire.connect("127.0.0.1", port, TOKEN, "learner", "control", ignore, ignore)
        body = random.Random(1).randbytes(3_000_000)
        channel.send(body)
        await host.arrived.wait()
        assert host.got == [(body, None)]
        await server.close()

    run(main)


def test_a_wrong_token_is_refused_and_not_repeated() -> None:
    async def main() -> None:
        host = Host()
        server, port = await host.start()
        with pytest.raises(TokenRefused, match="pass the token"):
            await wire.connect("127.0.0.1", port, "b" * 32, "learner", "control", ignore, ignore)
        assert len(host.refused) == 1 and "b" * 32 not in host.refused[0] and TOKEN not in host.refused[0]
        assert host.channels == []
        await server.close()

    run(main)


def greeting(version: int) -> bytes:
    body = msgspec.msgpack.encode(wire.Greeting(version, TOKEN, "learner", "control"))
    return header(len(body), 0) + body


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (greeting(99), "protocol version 99"),
        (header(2**31, 0), "over the limit"),
        (header(10, 2**63), "over the limit"),
        (header(9, 0) + b"not msgpk", "not a greeting"),
    ],
)
def test_strangers_are_refused_and_named(raw: bytes, reason: str) -> None:
    async def main() -> None:
        host = Host()
        server, port = await host.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw)
        await reader.read()
        await until(lambda: len(host.refused) == 1)
        assert reason in host.refused[0]
        assert host.channels == []
        writer.close()
        await server.close()

    run(main)


def test_a_peer_that_leaves_in_mid_frame_closes_once() -> None:
    async def main() -> None:
        host = Host()
        server, port = await host.start()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(greeting(wire.PROTOCOL_VERSION) + header(100, 5000) + b"x" * 300)
        await writer.drain()
        await until(lambda: len(host.channels) == 1)
        writer.close()
        await until(lambda: len(host.closed) == 1)
        assert host.got == []
        await server.close()

    run(main)


def test_an_announced_length_over_the_limit_ends_an_authenticated_connection() -> None:
    async def main() -> None:
        host = Host()
        server, port = await host.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(greeting(wire.PROTOCOL_VERSION) + header(1, 2**62))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(10_000)
        await until(lambda: bool(host.closed))
        assert isinstance(host.closed[0], WireError)
        writer.close()
        await server.close()

    run(main)


def test_random_bytes_are_frames_or_an_error() -> None:
    source = random.Random(7)
    limits = Limits()
    for _ in range(2000):
        try:
            body, payload = lengths(source.randbytes(12), 0, limits)
        except WireError:
            continue
        assert body <= limits.body_bytes and payload <= limits.payload_bytes


def test_a_busy_port_is_named() -> None:
    async def main() -> None:
        with socket.socket() as busy:
            busy.bind(("127.0.0.1", 0))
            busy.listen()
            where = busy.getsockname()
            with pytest.raises(PortInUse, match=str(where[1])):
                await wire.serve(where, token=TOKEN, on_channel=ignore, on_message=ignore, on_close=ignore)

    run(main)
