"""The two sides of each transport that bench_transport.py compares: a server process, and a client that it times."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Protocol

from plesio.records import Contribution, Version
from plesio.runtime.bulk import Bulk
from plesio.runtime.peer import keep_connected
from plesio.runtime.subscriber import Subscriber
from plesio.runtime.tracks import Track
from plesio.wire import channel as wire
from plesio.wire import messages as m
from plesio.wire.parts import Assembler, Part
from plesio.wire.server import serve

MB = 1 << 20
LARGEST_BYTES = 256 * MB
ORDER = struct.Struct("<cQQ")  # b'u' (to the server) or b'd', messages, bytes of each
HOST = "127.0.0.1"
TOKEN = "0123456789abcdef0123456789abcdef"  # of a server that lives for this benchmark only


class Client(Protocol):
    """The side that is timed."""

    def move(self, way: str, count: int, size_bytes: int) -> float:
        """Seconds until so many messages have moved; way 'up': to the server, which acknowledges the last; 'down'."""
        ...

    def close(self) -> None:
        """Ends the server too."""
        ...


def memory() -> memoryview:
    """LARGEST_BYTES, every page of it touched."""
    return memoryview(bytearray(os.urandom(MB)) * (LARGEST_BYTES // MB))


# -- a plain blocking socket


def receive(sock: socket.socket, into: memoryview, flags: int = 0) -> None:
    """Fills `into`."""
    at = 0
    while at < len(into):
        got = sock.recv_into(into[at:], 0, flags)
        if not got:
            raise EOFError("the peer is gone")
        at += got


def serve_plain(listener: socket.socket, flags: int = 0) -> None:
    """Takes orders until the peer goes; receives into memory that is there before anything comes."""
    sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    here, order = memory(), memoryview(bytearray(ORDER.size))
    with contextlib.suppress(EOFError):
        while True:
            receive(sock, order)
            way, count, size = ORDER.unpack(order)
            for _ in range(count):
                if way == b"u":
                    receive(sock, here[:size], flags)
                else:
                    sock.sendall(here[:size])
            if way == b"u":
                sock.sendall(b"k")


class Plain:
    """See Client."""

    flags = 0

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection((HOST, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.memory = memory()

    def move(self, way: str, count: int, size_bytes: int) -> float:
        """See Client."""
        began_s = time.perf_counter()
        self.sock.sendall(ORDER.pack(way[0].encode(), count, size_bytes))
        for _ in range(count):
            if way == "up":
                self.sock.sendall(self.memory[:size_bytes])
            else:
                receive(self.sock, self.memory[:size_bytes], self.flags)
        if way == "up":
            receive(self.sock, memoryview(bytearray(1)))
        return time.perf_counter() - began_s

    def close(self) -> None:
        """See Client."""
        self.sock.close()


class Waitall(Plain):
    """The kernel returns when all is there: fewer calls than Python's usual loop."""

    flags = socket.MSG_WAITALL


# -- plesio


def push_of(seq: int, size_bytes: int, wanted: int) -> m.Push:
    """A learner's message; wanted: how many versions of so many bytes are to come back (-1: an empty one)."""
    mine = Contribution(
        run="bench", contributor="learner-0", generation=1, seq=seq, bases=(Version(1, 0),), tokens=wanted, steps=1,
        size_bytes=size_bytes,
    )  # fmt: skip
    return m.Push(mine)


async def serve_plesio(listener: socket.socket) -> None:
    """As a synchronizer does, without the tensors: versions out by its Subscriber, pushes in by its Assembler."""
    ended = asyncio.Event()
    inbox, here = Assembler(LARGEST_BYTES), memory()
    subscribers: list[Subscriber] = []
    pumps: list[asyncio.Task[None]] = []
    made = 0

    def on_message(channel: wire.Channel, body: bytes, piece: memoryview | None) -> None:
        nonlocal made
        message = m.decode("bulk", body)
        if isinstance(message, m.Subscribe):
            channel.receive_into(inbox.place)
            channel.send(m.encode(m.Subscribed(inbox.have, ())))
            subscribers.append(Subscriber(channel, "bench", message.have, Track()))
            pumps.append(asyncio.create_task(subscribers[0].pump()))
            return
        assert isinstance(message, Part)
        whole = inbox.add(message, piece)
        if whole is None:
            return
        push = m.decode("bulk", whole[0]).contribution
        for _ in range(abs(push.tokens)):
            made += 1
            version = m.VersionMade(Version(1, made), "delta", {})
            subscribers[0].offer(version, here[: push.size_bytes] if push.tokens > 0 else b"")

    server = await serve(
        listener, token=TOKEN, on_channel=lambda channel: None, on_message=on_message,
        on_close=lambda channel, error: ended.set(),
    )  # fmt: skip
    await ended.wait()
    for pump in pumps:
        pump.cancel()
    await server.close()


class Plesio:
    """See Client."""

    def __init__(self, port: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.memory = memory()
        self.seq = 0
        self.awaited = 0
        self.came = asyncio.Event()
        self.bulk = Bulk(self._on_message, lambda have: m.Subscribe("learner-0", 1, None, "x", have), Track())
        connection = keep_connected(
            HOST, port, TOKEN, "learner", self.bulk.connected, self.bulk.on_frame, "bulk", self.bulk.lost
        )
        self.tasks = [self.loop.create_task(x) for x in (connection, self.bulk.pump())]

    def _on_message(self, message: Any, payload: memoryview | None) -> None:
        self.awaited -= 1
        if self.awaited == 0:
            self.came.set()

    def _put(self, size_bytes: int, wanted: int, payload: memoryview) -> None:
        self.seq += 1
        self.bulk.put(m.push_id(1, self.seq), push_of(self.seq, size_bytes, wanted), payload)

    async def _move(self, way: str, count: int, size_bytes: int) -> float:
        self.came.clear()
        self.awaited = count if way == "down" else 1
        began_s = time.perf_counter()
        if way == "down":
            self._put(size_bytes, count, memoryview(b""))
        else:
            for number in range(1, count + 1):
                self._put(size_bytes, -1 if number == count else 0, self.memory[:size_bytes])
        await self.came.wait()
        spent_s = time.perf_counter() - began_s
        self.bulk.settle(list(self.bulk.wanted))
        return spent_s

    def move(self, way: str, count: int, size_bytes: int) -> float:
        """See Client."""
        return self.loop.run_until_complete(self._move(way, count, size_bytes))

    def close(self) -> None:
        """See Client."""
        for task in self.tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*self.tasks, return_exceptions=True))
        self.loop.close()


# -- torch.distributed with gloo, and ZeroMQ


def _gloo(rank: int, port: int) -> Any:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.TCPStore(HOST, port, 2, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    return dist, torch.frombuffer(memory(), dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)


def serve_gloo(port: int) -> None:
    """Takes orders until one is for nothing."""
    dist, here, order = _gloo(1, port)
    while True:
        dist.recv(order, 0)
        up, count, size = order.tolist()
        if not count:
            return
        for _ in range(count):
            if up:
                dist.recv(here[:size], 0)
            else:
                dist.send(here[:size], 0)
        if up:
            dist.send(here[:1], 0)


class Gloo:
    """See Client."""

    def __init__(self, port: int) -> None:
        self.dist, self.memory, self.order = _gloo(0, port)

    def move(self, way: str, count: int, size_bytes: int) -> float:
        """See Client."""
        began_s = time.perf_counter()
        self.order.copy_(self.order.new_tensor([way == "up", count, size_bytes]))
        self.dist.send(self.order, 1)
        for _ in range(count):
            if way == "up":
                self.dist.send(self.memory[:size_bytes], 1)
            else:
                self.dist.recv(self.memory[:size_bytes], 1)
        if way == "up":
            self.dist.recv(self.memory[:1], 1)
        return time.perf_counter() - began_s

    def close(self) -> None:
        """See Client."""
        self.order.zero_()
        self.dist.send(self.order, 1)
        self.dist.destroy_process_group()


def _zeromq() -> Any:
    try:
        import zmq
    except ImportError as error:
        raise SystemExit("pyzmq is missing; pip install -e '.[bench]'") from error
    socket = zmq.Context().socket(zmq.PAIR)
    socket.setsockopt(zmq.LINGER, 0)
    return socket


def serve_zeromq(tell: Callable[[int], None]) -> None:
    """Takes orders until one is for nothing. Neither side copies in Python."""
    pair, here = _zeromq(), memory()
    tell(pair.bind_to_random_port(f"tcp://{HOST}"))
    while True:
        way, count, size = ORDER.unpack(pair.recv())
        if not count:
            return
        for _ in range(count):
            if way == b"u":
                pair.recv(copy=False)
            else:
                pair.send(here[:size], copy=False)
        if way == b"u":
            pair.send(b"k")


class ZeroMQ:
    """See Client."""

    def __init__(self, port: int) -> None:
        self.pair, self.memory = _zeromq(), memory()
        self.pair.connect(f"tcp://{HOST}:{port}")

    def move(self, way: str, count: int, size_bytes: int) -> float:
        """See Client."""
        began_s = time.perf_counter()
        self.pair.send(ORDER.pack(way[0].encode(), count, size_bytes))
        for _ in range(count):
            if way == "up":
                self.pair.send(self.memory[:size_bytes], copy=False)
            else:
                self.pair.recv(copy=False)
        if way == "up":
            self.pair.recv()
        return time.perf_counter() - began_s

    def close(self) -> None:
        """See Client."""
        self.pair.send(ORDER.pack(b"u", 0, 0))
        time.sleep(0.2)
        self.pair.close()
