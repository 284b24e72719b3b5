"""Channels over real sockets: order, integrity, no interleaving, authentication, limits, byte counts."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import msgspec
import pytest

from plesio.errors import PortInUse, ProtocolRefused, TokenRefused, WireError
from plesio.wire import channel as wire
from plesio.wire import greeting
from plesio.wire.channel import Channel, connect
from plesio.wire.frames import HEADER, header
from plesio.wire.server import Server, serve

TOKEN = "a secret"
WAIT_S = 150.0
Got = tuple[bytes, bytes]


async def soon(what: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(what, WAIT_S)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 2 * WAIT_S))


class House:
    """A server that keeps what it is sent and may echo it; and the clients that connect to it."""

    def __init__(self, echo: bool = False) -> None:
        self.echo = echo
        self.server: Server
        self.channels: list[Channel] = []
        self.got: list[Got] = []
        self.answers: list[Got] = []
        self.closed: list[Exception | None] = []
        self.refused: list[str] = []
        self._news = asyncio.Event()

    def on_channel(self, channel: Channel) -> None:
        self.channels.append(channel)
        self._news.set()

    def on_message(self, channel: Channel, body: bytes, payload: memoryview | None) -> None:
        self.got.append((body, bytes(payload or b"")))
        if self.echo:
            channel.send(body)
        self._news.set()

    def on_answer(self, channel: Channel, body: bytes, payload: memoryview | None) -> None:
        self.answers.append((body, bytes(payload or b"")))
        self._news.set()

    def on_close(self, channel: Channel, error: Exception | None) -> None:
        self.closed.append(error)
        self._news.set()

    def on_refused(self, peer: str, reason: str) -> None:
        self.refused.append(reason)
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async def wait() -> None:
            while not holds():
                self._news.clear()
                await self._news.wait()

        await soon(wait())

    async def client(self, token: str = TOKEN, kind: str = "control") -> Channel:
        host, port = self.server.address
        made = connect(host, port, token, "learner", kind, self.on_answer, lambda c, e: None)
        channel: Channel = await soon(made)
        return channel

    async def stranger(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.server.address)


@contextlib.asynccontextmanager
async def house(echo: bool = False, **options: Any) -> AsyncIterator[House]:
    it = House(echo)
    it.server = await serve(
        ("127.0.0.1", 0),
        token=TOKEN,
        on_channel=it.on_channel,
        on_message=it.on_message,
        on_close=it.on_close,
        on_refused=it.on_refused,
        **options,
    )
    try:
        yield it
    finally:
        await soon(it.server.close())


def test_ten_thousand_messages_are_echoed_in_order_and_both_sides_count_the_same_bytes() -> None:
    async def main() -> None:
        async with house(echo=True) as it:
            client = await it.client()
            sent = [b"%d" % i for i in range(10_000)]
            for body in sent:
                client.send(body)
            await it.until(lambda: len(it.answers) == len(sent))
            assert [body for body, _ in it.got] == [body for body, _ in it.answers] == sent
            [served] = it.channels
            assert (client.bytes_sent, client.bytes_received) == (served.bytes_received, served.bytes_sent)
            said = greeting.Greeting(greeting.PROTOCOL_VERSION, TOKEN, "learner", "control")
            hello = msgspec.msgpack.encode(said)
            assert client.bytes_sent == sum(12 + len(body) for body in [hello, *sent])
            assert (served.role, served.kind) == ("learner", "control")
            client.close()

    run(main())


def test_what_the_peer_s_machine_has_not_taken_yet_is_known() -> None:
    async def main() -> None:
        async with house() as it:
            client = await it.client(kind="bulk")
            await it.until(lambda: bool(it.channels))
            it.channels[0]._transport.pause_reading()  # type: ignore[union-attr]
            sending = asyncio.create_task(client.send_bulk(b"bulk", bytes(64 << 20)))
            await soon(_holds(lambda: client.undelivered_bytes() > client.unsent_bytes))
            it.channels[0]._transport.resume_reading()  # type: ignore[union-attr]
            await soon(sending)
            await soon(_holds(lambda: not client.undelivered_bytes()))
            client.close()

    run(main())


async def _holds(what: Callable[[], bool]) -> None:
    while not what():
        await asyncio.sleep(0.001)


def test_a_large_payload_arrives_intact_while_control_frames_pass_on_another_channel() -> None:
    async def main() -> None:
        async with house() as it:
            bulk, control = await it.client(kind="bulk"), await it.client()
            payload = random.Random(0).randbytes(1 << 20) * 64
            sending = asyncio.create_task(bulk.send_bulk(b"bulk", payload))
            while not sending.done():
                control.send(b"beat")
                await asyncio.sleep(0.001)
            await sending
            await it.until(lambda: any(body == b"bulk" for body, _ in it.got))
            at = [body for body, _ in it.got].index(b"bulk")
            assert it.got[at][1] == payload
            assert at >= 1  # beats that arrived before the bulk frame ended
            assert bulk.bytes_sent == it.channels[0].bytes_received
            bulk.close()
            control.close()

    run(main())


def test_frames_never_mix_and_bulk_frames_keep_their_order() -> None:
    async def main() -> None:
        async with house() as it:
            client = await it.client(kind="bulk")
            rng = random.Random(1)
            payloads = [rng.randbytes(3_000_001), b"", rng.randbytes(5_000_000), rng.randbytes(17)]
            tasks = [asyncio.create_task(client.send_bulk(b"bulk%d" % i, p)) for i, p in enumerate(payloads)]
            small = 0
            while not all(task.done() for task in tasks):
                client.send(b"small%d" % small, b"pp" if small % 2 else None)
                small += 1
                await asyncio.sleep(0)
            await asyncio.gather(*tasks)
            await it.until(lambda: len(it.got) == len(payloads) + small)
            assert [g for g in it.got if g[0].startswith(b"bulk")] == [
                (b"bulk%d" % i, p) for i, p in enumerate(payloads)
            ]
            assert [g for g in it.got if g[0].startswith(b"small")] == [
                (b"small%d" % i, b"pp" if i % 2 else b"") for i in range(small)
            ]
            assert client.bytes_sent == it.channels[0].bytes_received
            client.close()

    run(main())


def test_a_view_of_wider_items_is_sent_as_its_bytes() -> None:
    async def main() -> None:
        async with house() as it:
            client = await it.client(kind="bulk")
            await soon(client.send_bulk(b"x", memoryview(bytes(range(16))).cast("f")))
            await it.until(lambda: it.got == [(b"x", bytes(range(16)))])
            client.close()

    run(main())


def test_memory_stays_bounded_and_a_cancelled_bulk_frame_closes_the_channel() -> None:
    async def main() -> None:
        async with house() as it:
            client = await it.client(kind="bulk")
            assert it.channels[0]._transport is not None and client._transport is not None
            it.channels[0]._transport.pause_reading()
            sending = asyncio.create_task(client.send_bulk(b"x", bytes(64 << 20)))
            await asyncio.sleep(0.2)
            assert client._transport.get_write_buffer_size() <= wire.WAITING_BYTES
            client.send(b"must not land inside the frame")
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            with pytest.raises(WireError):
                client.send(b"after")
            it.channels[0]._transport.resume_reading()
            await it.until(lambda: len(it.closed) == 1)
            assert it.got == []

    run(main())


def test_bulk_frames_that_the_kernel_has_room_for_let_the_loop_go_on() -> None:
    async def main() -> None:
        async with house() as it:
            client, turns = await it.client(kind="bulk"), 0

            async def others() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            task = asyncio.create_task(others())
            for _ in range(50):
                await soon(client.send_bulk(b"x", b"small"))
            assert turns >= 50
            task.cancel()
            await it.until(lambda: len(it.got) == 50)
            client.close()

    run(main())


def test_payloads_are_received_where_the_receiver_says() -> None:
    async def main() -> None:
        async with house() as it:
            client, memory = await it.client(kind="bulk"), memoryview(bytearray(3 << 20))
            asked: list[Got] = []

            def place(body: bytes, size_bytes: int) -> memoryview | None:
                asked.append((body, b"%d" % size_bytes))
                return memory[1 : 1 + size_bytes] if body == b"here" else None

            it.channels[0].receive_into(place)
            payload = random.Random(0).randbytes(2 << 20)
            await soon(client.send_bulk(b"here", payload))
            await soon(client.send_bulk(b"there", b"abc"))
            client.send(b"nothing")
            await it.until(lambda: len(it.got) == 3)
            assert it.got == [(b"here", payload), (b"there", b"abc"), (b"nothing", b"")]
            assert asked == [(b"here", b"%d" % len(payload)), (b"there", b"3")]
            assert bytes(memory[1 : 1 + len(payload)]) == payload
            client.close()

    run(main())


def test_a_channel_that_is_closed_touches_that_memory_no_more() -> None:
    async def main() -> None:
        async with house() as it:
            client, memory = await it.client(kind="bulk"), memoryview(bytearray(1000))
            it.channels[0].receive_into(lambda body, size_bytes: memory[:size_bytes])
            client._write(header(1, 1000) + b"x" + b"a" * 10)
            while memory[9] != ord("a"):
                await asyncio.sleep(0.001)
            it.channels[0].abort()
            it.channels[0].get_buffer(-1)[:10] = b"b" * 10
            assert bytes(memory[:20]) == b"a" * 10 + bytes(10)
            client.close()

    run(main())


def test_a_peer_that_does_not_read_control_frames_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "QUEUE_BYTES", 1 << 20)

    async def main() -> None:
        async with house() as it:
            client = await it.client()
            assert it.channels[0]._transport is not None
            it.channels[0]._transport.pause_reading()
            with pytest.raises(WireError, match="does not read"):
                for _ in range(64):
                    client.send(bytes(1 << 20))
            await soon(client.wait_closed())

    run(main())


def test_a_wrong_token_is_refused_by_name_and_never_shown() -> None:
    async def main() -> None:
        async with house() as it:
            with pytest.raises(TokenRefused, match="pass the token"):
                await it.client("a wrong secret")
            assert it.channels == [] and len(it.refused) == 1
            assert "secret" not in it.refused[0]

    run(main())


def test_another_protocol_version_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with house() as it:
            reader, writer = await it.stranger()
            body = msgspec.msgpack.encode({"v": 0, "fields": "of another time"})
            writer.write(header(len(body), 0) + body)
            answer = msgspec.msgpack.decode((await soon(reader.read()))[12:])
            assert answer["ok"] is False and "install the same plesio" in answer["error"]
            writer.close()
            monkeypatch.setattr(wire, "Greeting", lambda v, *rest: {"v": v + 1})
            with pytest.raises(ProtocolRefused, match="protocol version 2 is not 1"):
                await it.client()
            assert it.channels == []

    run(main())


def test_a_newer_peer_that_speaks_our_version_too_is_taken() -> None:
    async def main() -> None:
        async with house() as it:
            reader, writer = await it.stranger()
            now = greeting.PROTOCOL_VERSION
            body = msgspec.msgpack.encode(greeting.Greeting(now + 2, TOKEN, "learner", "control", oldest=now))
            writer.write(header(len(body), 0) + body)
            size = HEADER.unpack(await soon(reader.readexactly(HEADER.size)))[0]
            answer = msgspec.msgpack.decode(await soon(reader.readexactly(size)))
            assert answer["ok"] and answer["v"] == now == it.channels[0].version
            writer.close()

    run(main())


def test_the_newest_version_that_both_speak_is_spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "PROTOCOL_VERSION", 5)
    monkeypatch.setattr(greeting, "OLDEST_VERSION", 3)
    assert [greeting.agree(*peer) for peer in ((9, 2), (4, 1), (3, 3), (5, 0))] == [5, 4, 3, 5]
    for peer in ((9, 6), (9, 0), (2, 1), (0, 0), (-1, 9)):
        with pytest.raises(ProtocolRefused, match="is not 3 to 5"):
            greeting.agree(*peer)


@pytest.mark.parametrize(
    "first",
    [header(0, 1 << 63), header(4097, 0), header(1, 1), b"GET / HTTP/1.1\r\n", header(2, 0) + b"\xc1\xff"],
)
def test_strangers_that_do_not_greet_are_refused(first: bytes) -> None:
    async def main() -> None:
        async with house() as it:
            reader, writer = await it.stranger()
            writer.write(first)
            with contextlib.suppress(ConnectionResetError):
                await soon(reader.read())
            await it.until(lambda: len(it.refused) == 1)
            assert it.channels == [] and it.server.strangers == {}
            writer.close()

    run(main())


def test_silent_strangers_are_dropped_at_the_deadline() -> None:
    async def main() -> None:
        async with house(auth_deadline_s=0.3) as it:
            silent = [await it.stranger() for _ in range(2)]
            await it.until(lambda: len(it.refused) == 2)
            assert all("within 0.3 s" in reason for reason in it.refused)
            for reader, writer in silent:
                with contextlib.suppress(ConnectionResetError):
                    assert await soon(reader.read()) == b""
                writer.close()

    run(main())


def test_of_a_crowd_of_silent_strangers_the_oldest_is_dropped() -> None:
    async def main() -> None:
        async with house(auth_deadline_s=WAIT_S, max_connections=2) as it:
            silent = [await it.stranger() for _ in range(3)]
            await it.until(lambda: len(it.refused) == 1)
            assert "oldest" in it.refused[0]
            with contextlib.suppress(ConnectionResetError):
                assert await soon(silent[0][0].read()) == b""
            (await it.client()).close()
            assert len(it.refused) == 2 and "oldest" in it.refused[1], "one more made room for who is honest"
            for _, writer in silent:
                writer.close()

    run(main())


def test_an_authenticated_peer_that_breaks_the_protocol_is_closed_with_wire_error() -> None:
    async def main() -> None:
        async with house() as it:
            client = await it.client()
            client._write(header(0, 1 << 63))
            await it.until(lambda: len(it.closed) == 1)
            assert isinstance(it.closed[0], WireError)

    run(main())


@pytest.mark.parametrize("half", [header(10, 0)[:5], header(10, 0) + b"12345", header(1, 9 << 20) + b"xyz"])
def test_half_a_frame_and_a_close_gives_one_on_close_and_no_message(half: bytes) -> None:
    async def main() -> None:
        async with house() as it:
            client = await it.client()
            client._write(half)
            client.close()
            client.close()
            await it.until(lambda: len(it.closed) == 1)
            it.channels[0].abort()
            await soon(it.channels[0].wait_closed())
            await asyncio.sleep(0.01)
            assert len(it.closed) == 1 and it.got == []
            with pytest.raises(WireError):
                it.channels[0].send(b"x")

    run(main())


def test_a_bound_socket_is_served_and_a_busy_port_is_named() -> None:
    async def main() -> None:
        async with house() as it:
            host, port = it.server.address
            nothing: Any = lambda *args: None  # noqa: E731
            with pytest.raises(PortInUse, match=f"{host}:{port}"):
                await serve((host, port), token="", on_channel=nothing, on_message=nothing, on_close=nothing)
            bound = socket.create_server(("127.0.0.1", 0))
            server = await serve(bound, token=TOKEN, on_channel=nothing, on_message=nothing, on_close=nothing)
            assert server.address == bound.getsockname()
            (await soon(connect(*server.address, TOKEN, "launcher", "control", nothing, nothing))).close()
            await soon(server.close())

    run(main())


def test_a_server_that_is_not_plesio_is_named() -> None:
    async def main() -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(header(4, 0) + b"\xc1abc")
            await reader.read()
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        with pytest.raises(WireError, match=f"{host}:{port}.*check the address"):
            await soon(connect(host, port, TOKEN, "learner", "control", lambda *a: None, lambda *a: None))
        server.close()

    run(main())
