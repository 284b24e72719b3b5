"""Channels over TLS: the same as without; and whoever does not belong is refused, in bounded time, and told."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import random
import socket
import ssl
import termios
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from plesio.cli import cert
from plesio.errors import TlsRefused, TokenRefused, WireError
from plesio.runtime.peer import keep_connected
from plesio.testing.waiting import wait_for
from plesio.wire import channel as wire
from plesio.wire.blocking import BlockingChannel
from plesio.wire.channel import Channel, connect
from plesio.wire.frames import HEADER, Limits
from plesio.wire.server import Server, serve
from plesio.wire.tls import Tls, load

TOKEN = "a secret"
WAIT_S = 150.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tls")
    cert.make(made / "ours", ["run"], ["node"], 1)
    cert.make(made / "theirs", ["run"], ["node"], 1)
    return made


def side(folder: Path, whose: str, stem: str, ca: bool = True, serves: bool = False) -> Tls:
    names = (f"{stem}.pem", f"{stem}-key.pem", *(["ca.pem"] if ca else []))
    return load(",".join(str(folder / whose / name) for name in names), serves=serves)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 2 * WAIT_S))


class House:
    """A server that keeps what it is sent."""

    def __init__(self) -> None:
        self.server: Server
        self.channels: list[Channel] = []
        self.got: list[tuple[bytes, bytes]] = []
        self.closed: list[Exception | None] = []
        self.refused: list[tuple[str, str]] = []
        self._news = asyncio.Event()

    def on_channel(self, channel: Channel) -> None:
        self.channels.append(channel)
        self._news.set()

    def on_message(self, channel: Channel, body: bytes, payload: memoryview | None) -> None:
        self.got.append((body, bytes(payload or b"")))
        if body == b"echo":
            channel.send(body)
        self._news.set()

    def on_close(self, channel: Channel, error: Exception | None) -> None:
        self.closed.append(error)
        self._news.set()

    def on_refused(self, peer: str, reason: str) -> None:
        self.refused.append((peer, reason))
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not holds():
                self._news.clear()
                await self._news.wait()

    async def client(self, tls: Tls | None, token: str = TOKEN, kind: str = "control") -> Channel:
        host, port = self.server.address
        async with asyncio.timeout(WAIT_S):
            return await connect(host, port, token, "learner", kind, self.on_message, lambda c, e: None, tls)


@contextlib.asynccontextmanager
async def house(tls: Tls | None, **options: Any) -> AsyncIterator[House]:
    it = House()
    it.server = await serve(
        ("127.0.0.1", 0), token=TOKEN, on_channel=it.on_channel, on_message=it.on_message, on_close=it.on_close,
        on_refused=it.on_refused, tls=tls, **options,
    )  # fmt: skip
    try:
        yield it
    finally:
        async with asyncio.timeout(WAIT_S):
            await it.server.close()


@pytest.mark.parametrize("ca", [True, False])
def test_bulk_and_control_frames_pass_in_order_and_the_payload_may_change_afterwards(folder: Path, ca: bool) -> None:
    async def main() -> None:
        async with house(side(folder, "ours", "run", ca, serves=True)) as it:
            tls = side(folder, "ours", "node") if ca else load(str(folder / "ours" / "run.pem"))
            client = await it.client(tls, kind="bulk")
            sizes = [48 << 20, 0, 17, 3_000_001, 16384]
            payloads = [random.Random(i).randbytes(size) for i, size in enumerate(sizes)]
            memory = bytearray(max(sizes))
            small = 0

            async def send_all() -> None:
                for i, payload in enumerate(payloads):
                    memory[: len(payload)] = payload
                    await client.send_bulk(b"bulk%d" % i, memoryview(memory)[: len(payload)])
                    memory[:] = bytes(len(memory))  # it was handed over

            sending = asyncio.create_task(send_all())
            while not sending.done():
                client.send(b"small%d" % small)
                small += 1
                await asyncio.sleep(0.001)
            await sending
            await it.until(lambda: len(it.got) == len(payloads) + small)
            bulk = [(body, payload) for body, payload in it.got if body.startswith(b"bulk")]
            assert bulk == [(b"bulk%d" % i, payload) for i, payload in enumerate(payloads)]
            assert [body for body, _ in it.got if body.startswith(b"small")] == [b"small%d" % i for i in range(small)]
            assert client.bytes_sent == it.channels[0].bytes_received
            client.close()
            client.close()  # twice is once
            async with asyncio.timeout(WAIT_S):
                await client.wait_closed()
            await it.until(lambda: it.closed == [None])
            assert it.refused == []

    run(main())


def test_memory_stays_bounded_when_the_peer_does_not_read_and_it_is_dropped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(wire, "QUEUE_BYTES", 4 << 20)

    async def main() -> None:
        async with house(side(folder, "ours", "run", serves=True)) as it:
            client = await it.client(side(folder, "ours", "node"), kind="bulk")
            assert it.channels[0]._transport is not None
            it.channels[0]._transport.pause_reading()
            sending = asyncio.create_task(client.send_bulk(b"x", bytes(64 << 20)))
            async with asyncio.timeout(WAIT_S):
                while not client.unsent_bytes:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert not sending.done() and client.unsent_bytes <= wire.SLICE_BYTES + 4096
            with pytest.raises(WireError, match="does not read"):
                for _ in range(16):
                    client.send(bytes(1 << 20))
            await asyncio.wait([sending], timeout=WAIT_S)
            assert isinstance(sending.exception(), WireError)

    run(main())


def test_a_frame_after_the_close_is_not_heard(folder: Path) -> None:
    async def main() -> None:
        async with house(side(folder, "ours", "run", serves=True)) as it:
            client = await it.client(side(folder, "ours", "node"))
            it.channels[0].close()
            with contextlib.suppress(WireError):
                client.send(b"late")
            await it.until(lambda: len(it.closed) == 1)
            assert it.got == []

    run(main())


def test_a_client_of_another_ca_is_told_and_one_that_we_do_not_trust_too(folder: Path) -> None:
    async def main() -> None:
        async with house(side(folder, "ours", "run", serves=True)) as it:
            with pytest.raises(TlsRefused, match="not trusted here"):
                await it.client(side(folder, "theirs", "node"))
            await it.until(lambda: len(it.refused) == 1)
            assert it.refused[0][0] == "127.0.0.1" and "perhaps it does not trust our certificate" in it.refused[0][1]

            stranger = side(folder, "theirs", "node")  # it trusts us, and we do not trust it
            stranger.client.load_verify_locations(folder / "ours" / "ca.pem")
            with pytest.raises(TlsRefused, match="does not accept our certificate"):
                await it.client(stranger)
            await it.until(lambda: len(it.refused) == 2)
            assert "not trusted" in it.refused[1][1], it.refused

            bare = side(folder, "ours", "node")
            bare.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            bare.client.check_hostname = False
            bare.client.load_verify_locations(folder / "ours" / "ca.pem")
            with pytest.raises(TlsRefused, match="certificate required"):
                await it.client(bare)
            assert it.channels == [] and it.server.strangers == {}
            (await it.client(side(folder, "ours", "node"))).close()

    run(main())


def test_a_node_cannot_pose_as_the_run(folder: Path) -> None:
    async def main() -> None:
        impostor = side(folder, "ours", "node")
        async with house(impostor) as it:
            with pytest.raises(TlsRefused, match="not trusted here"):
                await it.client(side(folder, "ours", "node"))

    run(main())


def test_without_a_ca_another_certificate_is_refused(folder: Path) -> None:
    async def main() -> None:
        async with house(side(folder, "ours", "run", ca=False, serves=True)) as it:
            with pytest.raises(TlsRefused):
                await it.client(load(str(folder / "theirs" / "run.pem")))
            with pytest.raises(TlsRefused):
                await it.client(load(str(folder / "ours" / "ca.pem")))  # it signed it, but is not it

    run(main())


def test_a_client_without_tls_is_told_to_use_it_and_a_tls_client_that_there_is_none(folder: Path) -> None:
    async def main() -> None:
        node = side(folder, "ours", "node")
        async with house(side(folder, "ours", "run", serves=True)) as it:
            with pytest.raises(TlsRefused, match="pass --tls"):
                await it.client(None)
            assert [reason for _, reason in it.refused] == ["this run speaks TLS; pass --tls CERT,KEY,CA here too"]
        async with house(None) as it:
            with pytest.raises(TlsRefused, match="does not speak TLS"):
                await it.client(node)
            assert len(it.refused) == 1 and "speaks TLS" in it.refused[0][1]
            assert it.server.strangers == {}

    run(main())


def test_a_refused_certificate_ends_the_reconnecting(folder: Path) -> None:
    async def main() -> None:
        async with house(side(folder, "ours", "run", serves=True)) as it:
            host, port = it.server.address
            theirs = side(folder, "theirs", "node")
            with pytest.raises(TlsRefused):
                async with asyncio.timeout(WAIT_S):
                    await keep_connected(
                        host, port, TOKEN, "learner", lambda c: None, lambda *a: None, tls=theirs
                    )  # fmt: skip
            with pytest.raises(TokenRefused):
                await it.client(side(folder, "ours", "node"), token="a wrong secret")

    run(main())


def test_silent_and_half_spoken_handshakes_are_dropped_at_the_deadline(folder: Path) -> None:
    async def main() -> None:
        async with house(side(folder, "ours", "run", serves=True), auth_deadline_s=0.5) as it:
            streams = [await asyncio.open_connection(*it.server.address) for _ in range(3)]
            streams[1][1].write(b"\x16\x03\x01")  # begins a handshake, and says no more
            streams[2][1].write(b"\x05")  # begins a frame
            await it.until(lambda: len(it.refused) == 3)
            for reader, writer in streams:
                with contextlib.suppress(ConnectionError):
                    async with asyncio.timeout(WAIT_S):
                        await reader.read()
                writer.close()
            assert it.server.strangers == {} and it.channels == []

    run(main())


def test_of_a_crowd_of_silent_handshakes_the_oldest_is_dropped(folder: Path) -> None:
    async def main() -> None:
        async with house(side(folder, "ours", "run", serves=True), auth_deadline_s=WAIT_S, max_connections=2) as it:
            streams = [await asyncio.open_connection(*it.server.address) for _ in range(3)]
            await it.until(lambda: len(it.refused) == 1)
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(WAIT_S):
                    await streams[0][0].read()
            (await it.client(side(folder, "ours", "node"))).close()
            assert len(it.refused) == 2 and all("oldest" in reason for _, reason in it.refused)
            for _, writer in streams:
                writer.close()

    run(main())


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\xff" * 4096, b"\x16"])
def test_garbage_is_a_refusal(folder: Path, first: bytes) -> None:
    async def main() -> None:
        async with house(side(folder, "ours", "run", serves=True), auth_deadline_s=0.5) as it:
            reader, writer = await asyncio.open_connection(*it.server.address)
            writer.write(first)
            await it.until(lambda: len(it.refused) == 1)
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(WAIT_S):
                    await reader.read()
            writer.close()
            assert it.server.strangers == {} and it.channels == []

    run(main())


def test_who_comes_and_goes_without_a_word_is_no_refusal(folder: Path) -> None:
    async def main() -> None:
        async with house(side(folder, "ours", "run", serves=True)) as it:
            _, writer = await asyncio.open_connection(*it.server.address)
            writer.close()
            (await it.client(side(folder, "ours", "node"))).close()
            await it.until(lambda: len(it.closed) == 1)
            assert it.refused == [] and it.server.strangers == {}

    run(main())


def unread(sock: socket.socket) -> int:
    """Bytes that wait there."""
    count = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, count)
    return count[0]


def test_half_a_record_keeps_nobody_from_sending(folder: Path) -> None:
    ours, theirs = socket.socketpair()
    for each in (ours, theirs):
        each.settimeout(WAIT_S)
    server = side(folder, "ours", "run", serves=True).server
    assert server is not None
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    far = server.wrap_bio(coming, going, server_side=True)

    def shake() -> None:
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                far.do_handshake()
                break
            theirs.sendall(going.read())
            coming.write(theirs.recv(1 << 16))
        theirs.sendall(going.read())

    with ThreadPoolExecutor(3) as threads:
        shaking = threads.submit(shake)
        channel = BlockingChannel(side(folder, "ours", "node").client.wrap_socket(ours), Limits(1 << 20, 0))
        shaking.result(WAIT_S)
        far.write(HEADER.pack(5, 0) + b"yours")
        record = going.read()
        theirs.sendall(record[:10])
        received = threads.submit(lambda: next(filter(None, iter(channel.receive, None))))
        try:
            wait_for(lambda: unread(channel.sock) == 0, "who receives takes the half", WAIT_S)
            threads.submit(channel.send, b"mine").result(WAIT_S)
            coming.write(theirs.recv(1 << 16))
            assert far.read(1 << 16) == HEADER.pack(4, 0) + b"mine"
        finally:
            theirs.sendall(record[10:])
        assert received.result(WAIT_S) == [b"yours"]
    channel.close()
    theirs.close()
