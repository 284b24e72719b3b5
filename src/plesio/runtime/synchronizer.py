"""The synchronizer process: holds pushes and the outer state, and only obeys the coordinator.

Sockets live on the event loop; tensors on one worker thread, one order at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from plesio.codecs.packets import Packet
from plesio.core import effects as e
from plesio.core import ledger
from plesio.core import stimuli as s
from plesio.core.spec import RunSpec
from plesio.errors import CodecError, PlesioError, WireError
from plesio.launchers.base import inherited_socket
from plesio.records import Contribution, Version
from plesio.runtime import snapshots
from plesio.runtime.outerstate import OuterState, digest, snapshot_name
from plesio.runtime.peer import keep_connected
from plesio.runtime.seats import Seats
from plesio.runtime.subscriber import Offer, Subscriber
from plesio.runtime.tracks import Track, report
from plesio.strategies.base import Strategy
from plesio.strategies.schedule import Timeline
from plesio.wire import channel as wire
from plesio.wire import messages as m
from plesio.wire import server as serving
from plesio.wire.frames import Limits
from plesio.wire.memory import Recycler
from plesio.wire.parts import PART_BYTES, Assembler, Part
from plesio.wire.timings import Kind
from plesio.wire.tls import Tls, from_environment

HISTORY = 8  # gradient versions kept for learners that reconnect
BACKLOG = 4  # changes waiting for one learner before it gets the whole state instead
MAX_HELD_PER_LEARNER = 4
BODY_BYTES = 16 << 20
STATE_FACTOR, STATE_BYTES = 8, 64 << 20  # no push or state is larger than so many models, and so many bytes

PushId = tuple[str, int, int]


class Held(NamedTuple):
    """A push that waits for its round."""

    push: Contribution
    packet: Packet
    buffers: bytes
    rule: bytes


class Synchronizer:
    """Owns the held pushes, the outer state and the subscribers."""

    def __init__(
        self,
        run_dir: Path,
        token: str,
        incarnation: str,
        keep: snapshots.Keep = snapshots.DEFAULT,
        tls: Tls | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.tls = tls
        self.keep = keep
        self.token = token
        self.incarnation = incarnation
        self.spec: RunSpec | None = None
        self.lineage = 0
        self.ends: tuple[int, ...] = ()  # of phases of the schedule
        self.version: Version | None = None  # the newest made
        self.state_of: Version | None = None  # the version whose parameters `outer` holds
        self.outer: OuterState | None = None
        self.held: dict[PushId, Held] = {}
        self.merged: dict[str, tuple[int, int]] = {}
        self.seats = Seats()
        self.recycler = Recycler()
        self.inboxes: dict[str, tuple[int, Assembler]] = {}  # by learner, with its generation
        self.asked: dict[str, int] = {}  # who may upload its state: generation
        self.uploading: set[str] = set()
        self.history: deque[tuple[m.VersionMade, bytes]] = deque(maxlen=HISTORY)
        self.subscribers: dict[str, Subscriber] = {}
        self.pumps: dict[str, asyncio.Task[None]] = {}
        self.sent: dict[str, Iterable[Offer]] = {}  # by learner: what its last connection may have broken off
        self.snapshot: s.SnapshotWritten | None = None
        self.orders: asyncio.Queue[Any] = asyncio.Queue()
        self.tensors = ThreadPoolExecutor(1, "tensors")
        self.control: wire.Channel | None = None
        self.bytes_done = [0, 0]
        self.work, self.sends = Track(), Track()  # timed spans; the event loop's
        self.channels: set[wire.Channel] = set()
        self.stopping = asyncio.Event()

    async def run(self, listener: socket.socket, coordinator: tuple[str, int]) -> None:
        """Serves until told to stop."""
        server = await serving.serve(
            listener,
            token=self.token,
            on_channel=self._on_channel,
            on_message=self._on_bulk,
            on_close=self._on_close,
            on_refused=lambda peer, reason: self._tell(s.Refused(str(peer), reason)),
            tls=self.tls,
        )
        host, port = listener.getsockname()[:2]
        self.address = m.Listening(host, port)
        connection = keep_connected(
            *coordinator, self.token, "synchronizer", self._on_connected, self._on_order,
            on_lost=self._on_lost, tls=self.tls,
        )  # fmt: skip
        tasks = [asyncio.create_task(t) for t in (connection, self._obey(), self._measure())]
        stop = asyncio.create_task(self.stopping.wait())
        done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
        self._tell_metrics()
        for task in (*tasks, stop, *self.pumps.values()):
            task.cancel()
        await server.close()
        self.tensors.shutdown(wait=True)
        for task in done:
            if task is not stop:
                task.result()

    def _on_channel(self, channel: wire.Channel) -> None:
        self.channels.add(channel)
        if (channel.role, channel.kind) != ("learner", "bulk"):
            raise WireError("nobody speaks to the synchronizer like that")
        channel.accept_frames(Limits(BODY_BYTES, 0))  # until it has said who it is

    def _tell(self, message: msgspec.Struct) -> None:
        if self.control is not None:
            with contextlib.suppress(WireError):
                self.control.send(m.encode(message))

    def _on_connected(self, channel: wire.Channel) -> None:
        """To a (new) coordinator: who I am and all that I hold."""
        self.control = channel
        self._tell(self.address)
        self._tell(s.SynchronizerUp(self.incarnation, self.version))
        if self.version is not None and self.version.number > 0:
            self._tell(s.Merged(self.incarnation, self.version))
        if self.snapshot is not None:
            self._tell(self.snapshot)
        for held in self.held.values():
            self._tell(s.PushArrived(self.incarnation, held.push))

    def _on_lost(self) -> None:
        self.control = None

    def _on_order(self, channel: wire.Channel, body: Any, payload: memoryview | None) -> None:
        order = m.decode("from", body)
        if isinstance(order, e.Admit):
            self.seats.admit(order.name, order.generation, order.incarnation)
        elif isinstance(order, e.Forget):
            self._forget(order.name)
        elif isinstance(order, e.DonateState):
            self.asked[order.to] = order.generation
        elif isinstance(order, e.AnswerPush):
            self.held.pop((order.to, order.generation, order.seq), None)
        else:
            self.orders.put_nowait(order)

    def _forget(self, name: str) -> None:
        for known in (self.merged, self.inboxes, self.asked, self.seats.admitted, self.sent):
            known.pop(name, None)

    async def _obey(self) -> None:
        """One order at a time, in the coordinator's order."""
        while True:
            order = await self.orders.get()
            if isinstance(order, e.LoadState):
                await self._load(order)
            elif isinstance(order, e.CloseRound):
                await self._close_round(order)
            elif isinstance(order, e.TakeSnapshot):
                await self._take_snapshot(order.version)
            elif order == "send state":
                await self._send_state_to_waiting()
            elif isinstance(order, tuple):
                await self._take_upload(*order)
            elif isinstance(order, m.Committed):
                await self._in_thread(snapshots.prune, self.run_dir, order.snapshot, self.keep)
            elif isinstance(order, e.EndRun):
                await self._write_model()

    async def _in_thread(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.tensors, function, *args)

    async def _load(self, order: e.LoadState) -> None:
        for (name, generation), incarnation in zip(order.learners, order.incarnations, strict=True):
            self.seats.admit(name, generation, incarnation)
        if order.lineage == self.lineage:
            return
        self.spec, self.lineage, self.ends = order.spec, order.lineage, order.ends
        self.held.clear()
        self.history.clear()
        self.sent.clear()
        self.outer = OuterState(order.spec.downlink)
        self.version = self.state_of = None
        for subscriber in self.subscribers.values():
            subscriber.queue.clear()
            subscriber.waits_for_state = True
        if order.version is None:
            return
        path = self.run_dir / order.snapshot
        snapshots.clean(self.run_dir, order.snapshot)
        data = await self._in_thread(path.read_bytes)
        await self._in_thread(self.outer.load, data)
        self.version = self.state_of = Version(order.lineage, order.version.number)
        await self._send_state_to_waiting()

    def _on_bulk(self, channel: wire.Channel, body: Any, payload: memoryview | None) -> None:
        try:
            message = m.decode("bulk", body)
            if isinstance(message, Part):
                whole = self._inbox(channel).add(message, payload)
                if whole is None:
                    return
                message, payload = m.decode("bulk", whole[0]), whole[1]
            elif not isinstance(message, m.Subscribe):
                raise WireError(f"{type(message).__name__} comes in parts")
            if isinstance(message, m.Subscribe):
                self._subscribe(channel, message)
            elif isinstance(message, m.Push) and payload is not None:
                self.seats.check(channel, message.contribution.contributor, message.contribution.generation)
                self._hold(message, payload)
            elif isinstance(message, m.StateUpload) and payload is not None:
                self.seats.check(channel, message.name, message.generation)
                self._queue_upload(message, payload)
            else:
                raise WireError(f"{type(message).__name__} has no place here")
        except (WireError, CodecError) as error:
            name, _ = self.seats.taken.get(channel, (f"{channel.role} {channel.peer}", 0))
            self._tell(s.Refused(name, str(error)))
            channel.abort()

    def _inbox(self, channel: wire.Channel) -> Assembler:
        """What has come of this learner's unfinished message; it outlives the connection, not the generation."""
        name, generation = self.seats.seat(channel)
        if self.inboxes.get(name, (0,))[0] != generation:
            self.inboxes[name] = (generation, Assembler(self._largest_payload(), self.recycler))
        return self.inboxes[name][1]

    def _queue_upload(self, upload: m.StateUpload, payload: memoryview) -> None:
        """Not taken, but no reason to hang up either: it was asked for at another time, perhaps."""
        if upload.version < Version(self.lineage, 0):
            return  # of before a roll-back, and sent again on a new connection
        here_already = (
            self.snapshot is not None and self.version is not None and upload.version <= self.snapshot.version
        )
        if upload.name in self.uploading or (self.asked.get(upload.name) != upload.generation and not here_already):
            self._tell(s.Refused(upload.name, "sends a state that it was not asked for"))
            return
        self.uploading.add(upload.name)
        self.orders.put_nowait((upload, payload))

    def _hold(self, message: m.Push, payload: memoryview) -> None:
        push = message.contribution
        key = (push.contributor, push.generation, push.seq)
        wrong = ledger.malformed(push)
        if wrong:
            raise WireError(f"push {push.seq}: {wrong}")
        if key in self.held or self.merged.get(push.contributor, (0, 0)) >= key[1:]:
            self._tell(s.Refused(push.contributor, f"push {push.seq} of generation {push.generation} came again"))
            return
        if self.spec is not None and push.base > (self.version or Version(self.lineage, -1)):
            raise WireError(f"push {push.seq}: its base is a version that this run has not made")
        if self.outer is None or push.base.lineage != self.lineage:
            return  # its sender learns of the roll-back and sends the work again
        if sum(1 for k in self.held if k[0] == push.contributor) >= MAX_HELD_PER_LEARNER:
            raise WireError(f"push {push.seq}: {MAX_HELD_PER_LEARNER} of its sender's wait already")
        if push.generation < self.seats.generation(push.contributor):
            self._tell(s.Refused(push.contributor, f"push {push.seq} of generation {push.generation} is not awaited"))
            self._tell(s.PushArrived(self.incarnation, push))
            return
        if push.digest != digest(payload):
            raise CodecError(f"the digest of push {push.seq} does not match its bytes")
        packet = self.outer.check(payload, message.buffers, message.rule)
        if not message.rule and self._strategy_after(push.base).kind == "served":
            raise CodecError(f"push {push.seq} does not say how to step")
        self.held[key] = Held(push, packet, message.buffers, message.rule)
        self._tell(s.PushArrived(self.incarnation, push))

    def _subscribe(self, channel: wire.Channel, message: m.Subscribe) -> None:
        if message.generation == 0 or self.spec is None:
            channel.abort()  # it has no generation yet, or we know of none: it connects again
            return
        self.seats.sit(channel, message.name, message.generation, message.incarnation)
        channel.accept_frames(Limits(BODY_BYTES, PART_BYTES))
        if message.name in self.subscribers:
            self.subscribers[message.name].channel.abort()
            self._lose(message.name)
        sent = self.sent.pop(message.name, ())
        subscriber = Subscriber(channel, self.incarnation, message.have, self.sends, sent)
        self.subscribers[message.name] = subscriber
        self.pumps[message.name] = asyncio.create_task(self._pump(subscriber))
        inbox = self._inbox(channel)
        inbox.limit_bytes = self._largest_payload()
        channel.receive_into(inbox.place)
        channel.send(m.encode(m.Subscribed(inbox.have, self._known(message))))
        base = message.base
        if base is not None and self.version is not None and base.lineage == self.lineage:
            missed = self._since(base)
            if missed is not None:
                subscriber.waits_for_state = False
                begun = subscriber.begun
                if begun is not None and begun[0].kind == "params" and base < begun[0].version < missed[0][0].version:
                    missed.insert(0, begun)  # newer ones come faster than connections last, perhaps
                for made, payload in missed:
                    subscriber.offer(made, payload)
                return
            if self._strategy_after(base).kind == "replicated":
                subscriber.offer(m.VersionMade(self.version, "gap", self.merged), b"")
                return
        self.orders.put_nowait("send state")  # behind the merge that may be under way

    def _since(self, base: Version) -> list[tuple[m.VersionMade, bytes]] | None:
        """The versions after this one; None when not all of them are here, or the whole state is smaller."""
        assert self.version is not None and self.outer is not None
        missed = [h for h in self.history if h[0].version.number > base.number]
        whole = [h for h in missed if h[0].kind == "params" and h[0].version == self.version]
        if whole:
            return whole
        if len(missed) != self.version.number - base.number:
            return None
        layout = self.outer.layout
        state_bytes = layout.numel * layout.dtype.itemsize if layout is not None else 0
        large = sum(len(payload) for _, payload in missed) > 2 * state_bytes
        return None if large and self._strategy_after(base).kind != "replicated" else missed

    def _known(self, learner: m.Subscribe) -> tuple[str, ...]:
        """Ids of this learner's messages that it need not send."""
        generation, merged = self.merged.get(learner.name, (0, 0))
        seqs = {k[2] for k in self.held if k[:2] == (learner.name, learner.generation)}
        if generation == learner.generation:
            seqs |= set(range(max(1, merged - 2 * MAX_HELD_PER_LEARNER), merged + 1))
        ids = [m.push_id(learner.generation, seq) for seq in sorted(seqs)]
        if self.snapshot is not None:
            ids.append(m.upload_id(learner.generation, self.snapshot.version))
        return tuple(ids)

    def _largest_payload(self) -> int:
        """Once the model is known, nothing that a learner has to say is many times its size."""
        layout = self.outer.layout if self.outer is not None else None
        if layout is None:
            return Limits().payload_bytes
        return min(Limits().payload_bytes, STATE_BYTES + STATE_FACTOR * layout.numel * layout.dtype.itemsize)

    def _strategy_after(self, base: Version) -> Strategy:
        assert self.spec is not None
        return Timeline(self.spec.schedule, self.ends).at(base.number + 1)

    async def _pump(self, subscriber: Subscriber) -> None:
        with contextlib.suppress(WireError, OSError):
            await subscriber.pump()

    async def _send_state_to_waiting(self) -> None:
        """The whole state, to those who have none, if it is the newest version's."""
        waiting = [x for x in self.subscribers.values() if x.waits_for_state]
        if not waiting or self.version is None or self.state_of != self.version or self.outer is None:
            return
        made = m.VersionMade(self.version, "state", dict(self.merged), ends=self.ends)
        state = made, await self._in_thread(self.outer.dense)
        for subscriber in waiting:
            subscriber.waits_for_state = False
            begun, since = subscriber.begun, None
            if begun is not None and begun[0].kind == "state" and begun[0].version.lineage == self.lineage:
                since = self._since(begun[0].version)
            if begun is None or since is None:
                begun, since = state, []
            for made, payload in (begun, *since):  # the state whose sending broke off goes on, and then the changes
                subscriber.offer(made, payload)

    async def _close_round(self, order: e.CloseRound) -> None:
        if self.outer is None or self.spec is None or order.version.lineage != self.lineage:
            return
        if self.version is not None and order.version.number <= self.version.number:
            self._tell(s.Merged(self.incarnation, self.version))
            return
        self.ends = order.ends
        chosen = Timeline(self.spec.schedule, self.ends).at(order.version.number)
        began_s = time.monotonic()
        held = [self.held[p] for p in order.pushes]
        packets, rules = [h.packet for h in held], [h.rule for h in held]
        kind, payload = await self._in_thread(self.outer.merge, order, packets, rules, chosen)
        buffers = self.outer.merge_buffers(order.factors, [h.buffers for h in held])
        for push in order.pushes:
            del self.held[push]
            self.merged[push[0]] = max(self.merged.get(push[0], (0, 0)), push[1:])
        self.version = order.version
        if order.donor:
            self.asked[order.donor] = self.seats.generation(order.donor)
        if kind != "gradient":
            self.state_of = order.version
        made = m.VersionMade(
            order.version, kind, dict(self.merged), order.final, order.donor, order.evaluator, buffers, self.ends
        )
        spent_s = time.monotonic() - began_s
        self.work.add(Kind.MERGE, began_s, spent_s, order.version.number)
        self._tell(s.Merged(self.incarnation, order.version, spent_s))
        self.history.append((made, payload))
        for subscriber in self.subscribers.values():
            self._offer_version(subscriber, made, payload)
        await self._send_state_to_waiting()

    def _offer_version(self, subscriber: Subscriber, made: m.VersionMade, payload: bytes) -> None:
        if subscriber.waits_for_state:
            return
        if made.kind == "delta" and len(subscriber.queue) >= BACKLOG:
            subscriber.queue.clear()
            subscriber.waits_for_state = True
            return
        subscriber.offer(made, payload)

    async def _take_snapshot(self, version: Version) -> None:
        if self.outer is None or self.version is None or self.state_of != self.version:
            return
        if self.snapshot is not None and self.snapshot.version == self.version:
            self._tell(self.snapshot)
            return
        newest, began_s = self.version, time.monotonic()
        data = await self._in_thread(self.outer.dump)
        await self._write_snapshot(newest, data)
        self.work.add(Kind.SNAPSHOT, began_s, time.monotonic() - began_s, newest.number)

    async def _take_upload(self, upload: m.StateUpload, payload: memoryview) -> None:
        """A learner's state, accepted for the first version or in gradient rounds; never over what is newer."""
        self.uploading.discard(upload.name)
        if self.outer is None or self.seats.generation(upload.name) != upload.generation:
            return
        version = Version(self.lineage, 0) if self.version is None else upload.version
        if self.version is not None:
            known = version.lineage == self.lineage and version.number <= self.version.number
            mine = self.snapshot is not None and version <= self.snapshot.version
            if mine and self.snapshot is not None:
                self._tell(self.snapshot)  # what was said of it was lost
            if not known or mine or self._strategy_after(Version(0, version.number - 1)).kind != "replicated":
                return
        data = bytes(payload)
        try:
            await self._in_thread(self.outer.check_state, data)
            if self.version is None or version == self.version:
                await self._in_thread(self.outer.load, data)
                self.version = self.state_of = version
        except CodecError as error:
            self._tell(s.Refused(upload.name, str(error)))
            return
        began_s = time.monotonic()
        await self._write_snapshot(version, data)
        self.work.add(Kind.SNAPSHOT, began_s, time.monotonic() - began_s, version.number)
        await self._send_state_to_waiting()

    async def _write_snapshot(self, version: Version, data: bytes) -> None:
        began_s = time.monotonic()
        name = snapshot_name(version)
        code = await self._in_thread(digest, data)
        await self._in_thread(snapshots.write, self.run_dir, name, data)
        self.snapshot = s.SnapshotWritten(self.incarnation, version, name, code, time.monotonic() - began_s)
        self._tell(self.snapshot)

    async def _write_model(self) -> None:
        if self.outer is None or self.outer.layout is None:
            return
        from safetensors.torch import save

        data = await self._in_thread(save, await self._in_thread(self.outer.model))
        await self._in_thread(snapshots.write, self.run_dir, "model.safetensors", data)

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._tell_metrics()

    def _tell_metrics(self) -> None:
        if self.control is None:
            return  # timed spans wait for a connection
        sent = self.bytes_done[0] + sum(c.bytes_sent for c in self.channels)
        received = self.bytes_done[1] + sum(c.bytes_received for c in self.channels)
        timings = report((self.work, self.sends))
        self._tell(m.Metrics("synchronizer", 0, up_bytes=sent, down_bytes=received, timings=timings))

    def _on_close(self, channel: wire.Channel, error: Exception | None) -> None:
        self.channels.discard(channel)
        self.seats.gone(channel)
        self.bytes_done[0] += channel.bytes_sent
        self.bytes_done[1] += channel.bytes_received
        for name, subscriber in list(self.subscribers.items()):
            if subscriber.channel is channel:
                self._lose(name)

    def _lose(self, name: str) -> None:
        """This learner's connection is over."""
        self.sent[name] = self.subscribers.pop(name).sent
        self.pumps.pop(name).cancel()


def main() -> None:
    """Entry of the process. Settings come in PLESIO_* variables, the listening socket as an inherited fd."""
    torch.set_num_threads(1)
    host, _, port = os.environ["PLESIO_COORDINATOR"].rpartition(":")
    listener = inherited_socket("listener")
    run_dir = Path(os.environ["PLESIO_RUN_DIR"])
    keep = snapshots.Keep(int(os.environ.get("PLESIO_KEEP_SNAPSHOTS", snapshots.DEFAULT.last)))

    async def serve() -> None:
        token, incarnation = os.environ.pop("PLESIO_TOKEN"), os.environ["PLESIO_INCARNATION"]
        synchronizer = Synchronizer(run_dir, token, incarnation, keep, from_environment(serves=True))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, synchronizer.stopping.set)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        await synchronizer.run(listener, (host, int(port)))

    try:
        asyncio.run(serve())
    except PlesioError as error:
        print(f"synchronizer: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
