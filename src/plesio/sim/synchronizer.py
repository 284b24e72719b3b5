"""The simulated synchronizer: the runtime's logic without tensors. Its disk outlives it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from plesio.core import effects as e
from plesio.core import stimuli as s
from plesio.core.spec import RunSpec
from plesio.records import Contribution, Version
from plesio.sim.content import Content, Step
from plesio.sim.network import Connection, Network
from plesio.sim.world import Process, World
from plesio.strategies.base import Kind
from plesio.strategies.schedule import Timeline
from plesio.wire import messages as m

HISTORY = 8

PushId = tuple[str, int, int]


class SimSynchronizer(Process):
    """One life of the synchronizer."""

    def __init__(
        self,
        world: World,
        network: Network,
        disk: dict[str, tuple[Version, Content]],
        incarnation: str,
        point: Callable[[Process, str], None],
    ) -> None:
        super().__init__(world, "synchronizer")
        self.network = network
        self.disk = disk
        self.incarnation = incarnation
        self.point = point
        self.spec: RunSpec | None = None
        self.lineage = 0
        self.ends: tuple[int, ...] = ()
        self.version: Version | None = None
        self.state_of: Version | None = None
        self.content: Content | None = None
        self.held: dict[PushId, tuple[Contribution, tuple[Step, ...]]] = {}
        self.merged: dict[str, tuple[int, int]] = {}
        self.admitted: dict[str, int] = {}
        self.history: deque[tuple[m.VersionMade, Any]] = deque(maxlen=HISTORY)
        self.subscribers: dict[str, Connection] = {}
        self.waiting: set[str] = set()  # subscribers that need the whole state
        self.snapshot: s.SnapshotWritten | None = None
        self.control: Connection | None = None

    def start(self) -> None:
        """Listens, and connects to the coordinator."""
        self.network.listening["synchronizer"] = self
        self.network.connect(self, "coordinator", "control")

    def connected(self, connection: Connection) -> None:
        if connection.kind != "control":
            return
        self.control = connection
        self._tell(s.SynchronizerUp(self.incarnation, self.version))
        if self.version is not None and self.version.number > 0:
            self._tell(s.Merged(self.incarnation, self.version))
        if self.snapshot is not None:
            self._tell(self.snapshot)
        for contribution, _ in self.held.values():
            self._tell(s.PushArrived(self.incarnation, contribution))

    def lost(self, connection: Connection) -> None:
        if connection.kind == "control":
            self.control = None
            self.network.connect(self, "coordinator", "control")
        for name, other in list(self.subscribers.items()):
            if other is connection:
                del self.subscribers[name]
                self.waiting.discard(name)

    def receive(self, connection: Connection, message: Any, payload: Any) -> None:
        if isinstance(message, m.Push):
            self._hold(message.contribution, payload)
        elif isinstance(message, m.Subscribe):
            self._subscribe(connection, message)
        elif isinstance(message, m.StateUpload):
            self._take_upload(message, payload)
        elif isinstance(message, e.Admit):
            self.admitted[message.name] = message.generation
        elif isinstance(message, e.Forget):
            self.admitted.pop(message.name, None)
            self.merged.pop(message.name, None)
        elif isinstance(message, e.AnswerPush):
            self.held.pop((message.to, message.generation, message.seq), None)
        elif isinstance(message, e.LoadState):
            self._load(message)
        elif isinstance(message, e.CloseRound):
            self.later(self.world.rng.uniform(0.0, 0.01), self._close_round, message)
        elif isinstance(message, e.TakeSnapshot):
            self._take_snapshot()

    def _tell(self, message: s.Stimulus) -> None:
        self.point(self, "synchronizer tells")
        if self.control is not None:
            self.control.send(self, message)

    def _load(self, order: e.LoadState) -> None:
        self.admitted.update(dict(order.learners))
        if order.lineage <= self.lineage:
            return
        self.spec, self.lineage, self.ends = order.spec, order.lineage, order.ends
        self.held.clear()
        self.history.clear()
        self.version = self.state_of = None
        self.waiting = set(self.subscribers)
        if order.version is not None:
            version, self.content = self.disk[order.snapshot]
            assert version.number == order.version.number
            self.version = self.state_of = Version(order.lineage, version.number)
            self._serve_waiting()

    def _hold(self, push: Contribution, steps: tuple[Step, ...]) -> None:
        key = (push.contributor, push.generation, push.seq)
        if key in self.held or self.merged.get(push.contributor, (0, 0)) >= key[1:]:
            return
        if push.base.lineage != self.lineage:
            return  # its sender learns of the roll-back and sends the work again
        if push.generation >= self.admitted.get(push.contributor, 0):
            self.held[key] = (push, steps)
        self._tell(s.PushArrived(self.incarnation, push))

    def _subscribe(self, connection: Connection, message: m.Subscribe) -> None:
        self.subscribers[message.name] = connection
        self.waiting.add(message.name)
        base = message.base
        if base is not None and self.version is not None and base.lineage == self.lineage:
            missed = [h for h in self.history if h[0].version.number > base.number]
            whole = [h for h in missed if h[0].kind == "params" and h[0].version == self.version]
            if whole or len(missed) == self.version.number - base.number:
                self.waiting.discard(message.name)
                for made, payload in whole or missed:
                    connection.send(self, made, payload)
                return
            if self._gradient(base):
                self.waiting.discard(message.name)
                connection.send(self, m.VersionMade(self.version, "gap", dict(self.merged)))
                return
        self._serve_waiting()

    def _gradient(self, base: Version) -> bool:
        return self._timeline().at(base.number + 1).kind == "replicated"

    def _timeline(self) -> Timeline:
        assert self.spec is not None
        return Timeline(self.spec.schedule, self.ends)

    def _serve_waiting(self) -> None:
        """The whole state, to those who have none, if it is the newest version's."""
        if self.version is None or self.state_of != self.version:
            return
        for name in sorted(self.waiting):
            made = m.VersionMade(self.version, "state", dict(self.merged), ends=self.ends)
            self.subscribers[name].send(self, made, self.content)
        self.waiting.clear()

    def _close_round(self, order: e.CloseRound) -> None:
        if self.spec is None or order.version.lineage != self.lineage:
            return
        if self.version is not None and order.version.number <= self.version.number:
            self._tell(s.Merged(self.incarnation, self.version))
            return
        assert self.version is not None and order.version.number == self.version.number + 1
        self.ends = order.ends
        kind = self._timeline().at(order.version.number).kind
        if kind == "replicated":
            assert all(self.held[p][0].base == self.version for p in order.pushes), "I4: a gradient on another version"
        steps = tuple(step for p in order.pushes for step in self.held[p][1])
        for push in order.pushes:
            del self.held[push]
            self.merged[push[0]] = max(self.merged.get(push[0], (0, 0)), push[1:])
        self.version = order.version
        if kind != "replicated":
            assert self.state_of == Version(self.lineage, self.version.number - 1), (
                "a change of a state that is not here"
            )
            self.content, self.state_of = Content(self.content, steps), order.version
        what, payload = self._news(kind, steps)
        made = m.VersionMade(
            order.version, what, dict(self.merged), order.final, order.donor, order.evaluator, ends=self.ends
        )
        self.history.append((made, payload))
        for name, connection in self.subscribers.items():
            if name not in self.waiting:
                connection.send(self, made, payload)
        self._tell(s.Merged(self.incarnation, order.version, 0.01))
        self._serve_waiting()

    def _news(self, kind: Kind, steps: tuple[Step, ...]) -> tuple[str, Any]:
        """What learners get of the version just made: what loses nothing is sent whole."""
        assert self.spec is not None
        if kind == "replicated":
            return "gradient", steps
        return ("params", self.content) if self.spec.downlink == "none" else ("delta", steps)

    def _take_snapshot(self) -> None:
        if self.version is None or self.state_of != self.version or self.content is None:
            return
        if self.snapshot is not None and self.snapshot.version == self.version:
            self._tell(self.snapshot)
            return
        self._write(self.version, self.content)

    def _take_upload(self, upload: m.StateUpload, content: Content) -> None:
        """A learner's state, accepted for the first version or in gradient rounds; never over what is newer."""
        if not self.lineage or self.admitted.get(upload.name) != upload.generation:
            return
        version = Version(self.lineage, 0) if self.version is None else upload.version
        if self.version is not None:
            known = version.lineage == self.lineage and version.number <= self.version.number
            mine = self.snapshot is not None and version <= self.snapshot.version
            if mine and self.snapshot is not None:
                self._tell(self.snapshot)
            if not known or mine or self._timeline().at(version.number).kind != "replicated":
                return
        if self.version is None or version == self.version:
            self.version = self.state_of = version
            self.content = content
        self._write(version, content)
        self._serve_waiting()

    def _write(self, version: Version, content: Content) -> None:
        self.point(self, "before snapshot")
        name = f"snapshot-{version.lineage}-{version.number}"
        self.disk[name] = (version, content)
        self.snapshot = s.SnapshotWritten(self.incarnation, version, name, str(content.digest), 0.02)
        self._tell(self.snapshot)
