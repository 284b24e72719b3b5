"""The learner's codec thread: encodes what leaves, decodes what arrives, and keeps the residual of what was lost."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from torch import Tensor

from plesio import codecs
from plesio.codecs.packets import Packet
from plesio.errors import CodecError
from plesio.records import Contribution, Version
from plesio.runtime import buffers
from plesio.runtime.encoder import Encoder
from plesio.runtime.fragments import Layout, unpack_state
from plesio.runtime.link import Link
from plesio.runtime.outerstate import digest
from plesio.runtime.tracks import Track
from plesio.runtime.worker import Worker
from plesio.wire import messages as m
from plesio.wire.timings import Kind


class Newest:
    """An event: parameters, of which newer ones take the place until they are taken. Owned by the Coding."""

    def __init__(self, made: m.VersionMade, value: Any) -> None:
        self.made = made
        self.value = value


class Coding:
    """Owns the thread, the codec's state and the packets that may have to come back.

    What arrives goes to `events` as (message, value), and so does an error, as (error, None). Of parameters that say all,
    only the newest wait for a main thread that is busy: they go as (Newest, None), to be had by `take`.
    """

    def __init__(self, link: Link, events: queue.SimpleQueue[tuple[Any, Any]]) -> None:
        self.link = link
        self.events = events
        self.track = Track()  # timed spans of the thread
        self.packets: dict[int, bytes] = {}
        self.encoder: Encoder | None = None
        self._use: tuple[str, bool] | None = None  # what the encoder is for, or the one to come
        self._encoded_s = 0.0  # when the last change came; 0: none did
        self._lost: Tensor | None = None  # by packets since it was taken
        self._newest: Newest | None = None  # that was not taken yet
        self._lock = threading.Lock()  # of _lost and _newest
        self._worker = Worker("plesio-codec")

    def use(self, text: str, changes: bool, layout: Layout) -> None:
        """After what is under way this codec, for changes or gradients. Raises UserError for a bad text."""
        if (text, changes) != self._use:
            self._use = text, changes
            self._worker.submit(setattr, self, "encoder", Encoder(text, changes, layout))

    def push(self, push: Contribution, value: Tensor, own_buffers: bytes, rule: bytes) -> None:
        """Encodes and sends. value: (n,), handed over."""
        self._worker.submit(self._guarded, self.encode, push, value, own_buffers, rule)

    def upload(self, version: Version, pack: Callable[[], bytes]) -> None:
        """Sends a state; `pack` makes its bytes, on the thread."""

        def send() -> None:
            began_s = time.monotonic()
            data = pack()
            self.track.add(Kind.ENCODE, began_s, time.monotonic() - began_s)
            self.link.upload(version, data)

        self._worker.submit(self._guarded, send)

    def receive(self, made: m.VersionMade, payload: memoryview | None) -> None:
        """Decodes; from any thread."""
        self._worker.submit(self._guarded, self._decode, made, payload)

    def forget(self, seqs: Iterable[int]) -> None:
        """These packets are not needed again."""
        for seq in seqs:
            self.packets.pop(seq, None)

    def drop_feedback(self) -> bool:
        """After what is under way: the residual is of something else than what follows. Was there any?"""
        self.wait()
        return self.encoder is not None and self.encoder.drop()

    def start_anew(self) -> None:
        """Nothing that was encoded counts any more."""
        self.drop_feedback()
        self._encoded_s = 0.0
        self.packets.clear()
        with self._lock:
            self._newest = self._lost = None

    def take_lost(self) -> Tensor | None:
        """What packets of changes lost since it was taken: (n,), the caller's."""
        with self._lock:
            found, self._lost = self._lost, None
        return found

    def wait(self) -> None:
        """Returns when the thread has done all that it was given."""
        self._worker.wait()

    def stop(self) -> None:
        """Ends the thread after that."""
        self._worker.stop()

    def encode(self, push: Contribution, value: Tensor, own_buffers: bytes, rule: bytes) -> None:
        """On the thread."""
        assert self.encoder is not None
        began_s = time.monotonic()
        link = None
        if self.encoder.codec.varies and self._encoded_s and (bytes_per_s := self.link.bytes_per_s()):
            link = codecs.Link(bytes_per_s, began_s - self._encoded_s)
        self._encoded_s = began_s
        packet, lost = self.encoder.encode(value, link)
        buffers.read(own_buffers)
        if not codecs.is_finite(packet):  # the synchronizer would turn it away
            raise CodecError("the model's change holds NaN or Inf; check the loss")
        data = packet.to_bytes()
        if lost is not None:
            with self._lock:
                self._lost = lost if self._lost is None else self._lost.add_(lost)
        self.packets[push.seq] = data
        self.track.add(Kind.ENCODE, began_s, time.monotonic() - began_s, push.seq)
        push = msgspec.structs.replace(push, digest=digest(data), size_bytes=len(data))
        self.link.push(m.Push(push, own_buffers, rule), data)

    def _decode(self, made: m.VersionMade, payload: memoryview | None) -> None:
        began_s = time.monotonic()
        value: Any = None
        if made.kind == "state":
            value = unpack_state(payload or b"")
        elif made.kind in ("gradient", "delta", "params"):
            value = codecs.decode(Packet.from_bytes(payload or b""))
        self.track.add(Kind.DECODE, began_s, time.monotonic() - began_s, made.version.number)
        if made.kind != "params":
            self.events.put((made, value))
            return
        with self._lock:
            newest = self._newest
            if newest is not None and newest.made.version.lineage == made.version.lineage:
                newest.made, newest.value = m.instead(made, newest.made), value
            else:
                self._newest = Newest(made, value)
                self.events.put((self._newest, None))

    def take(self, newest: Newest) -> tuple[m.VersionMade, Any]:
        """What it has come to be."""
        with self._lock:
            if self._newest is newest:
                self._newest = None
        return newest.made, newest.value

    def _guarded(self, function: Callable[..., None], *args: Any) -> None:
        """An error is raised on the main thread."""
        try:
            function(*args)
        except Exception as error:  # the edge of a thread: nobody else would see it
            self.events.put((error, None))
