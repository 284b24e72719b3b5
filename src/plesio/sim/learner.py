"""The simulated learner: the shipped Arrivals and PushBook, steps that take virtual time, and no tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from plesio.core import effects as e
from plesio.core import stimuli as s
from plesio.core.arrival import Advance, Arrivals, Drop, JoinAnew, Load
from plesio.core.pushbook import PushBook
from plesio.core.state import ids
from plesio.records import Contribution, Dataset, Version
from plesio.sim.content import Content, Step
from plesio.sim.network import Connection, Network
from plesio.sim.world import Process, World
from plesio.wire import messages as m

ASK = 4
BEAT_S = 0.25

UnitId = tuple[int, int]


class SimLearner(Process):
    """One life of a learner's process."""

    def __init__(
        self, world: World, network: Network, name: str, incarnation: str, step_s: float, dataset: Dataset, steps: int
    ) -> None:
        super().__init__(world, name)
        self.network = network
        self.first_incarnation = self.incarnation = incarnation
        self.step_s = step_s
        self.dataset = dataset
        self.steps_per_unit = steps
        self.book = PushBook(run="", name=name)
        self.arrivals = Arrivals(self.book)
        self.control: Connection | None = None
        self.bulk: Connection | None = None
        self.wants_bulk = False
        self.content = Content(None, ())  # of the base
        self.unsent: list[Step] = []
        self.pushes: dict[int, tuple[Contribution, tuple[Step, ...]]] = {}
        self.units: deque[UnitId] = deque()
        self.done_steps: dict[UnitId, set[int]] = {}  # of units that have begun here and not ended
        self.request = 0
        self.asked: s.AskUnits | None = None
        self.nothing_left = False
        self.stepping = 0  # which step is under way; 0: none
        self.step_count = 0
        self.rejoins = 0
        self.farewell: s.Leave | None = None  # it wants to go
        self.released: Callable[[], None] = lambda: None
        self.leave: Callable[[], None] = self.say_goodbye

    # -- connections

    def start(self) -> None:
        """Joins."""
        self.network.connect(self, "coordinator", "control")
        self._beat()

    def connected(self, connection: Connection) -> None:
        if connection.kind == "control":
            self.control = connection
            self._greet()
            for push in self.pushes.values():
                self._bulk(m.Push(push[0]), push[1])
            return
        self.bulk = connection
        self._bulk(m.Subscribe(self.name, self.book.generation, self.book.base))
        for seq in sorted(self.pushes):
            self._bulk(m.Push(self.pushes[seq][0]), self.pushes[seq][1])

    def lost(self, connection: Connection) -> None:
        if connection is self.control:
            self.control = None
            self.network.connect(self, "coordinator", "control")
        elif connection is self.bulk:
            self.bulk = None
            self.network.connect(self, "synchronizer", "bulk")

    def _greet(self) -> None:
        if self.book.base is None:
            self._tell(s.Join(self.name, self.incarnation, "model", 10))
        else:
            self._tell(s.Hold(self.name, self.book.generation, self.book.base))
        if self.asked is not None:
            self._tell(self.asked)
        if self.farewell is not None:
            self._tell(self.farewell)

    def _tell(self, message: s.Stimulus) -> None:
        if self.control is not None:
            self.control.send(self, message)

    def _bulk(self, message: Any, payload: Any = None) -> None:
        if self.bulk is not None:
            self.bulk.send(self, message, payload)

    def say_goodbye(self) -> None:
        """It leaves on its own."""
        self.farewell = s.Leave(self.name, self.book.generation)
        self._tell(self.farewell)

    def _beat(self) -> None:
        if self.book.generation:
            self._tell(s.Beat(self.name, self.book.generation))
        self.later(BEAT_S, self._beat)

    def receive(self, connection: Connection, message: Any, payload: Any) -> None:
        if connection not in (self.control, self.bulk):
            return
        if isinstance(message, m.VersionMade):
            self._version(message, payload)
        elif isinstance(message, e.EndRun) or (isinstance(message, e.Refuse) and "finished" in message.reason):
            self._take_all(self.arrivals.ended())
        elif message.generation == self.book.generation or isinstance(message, e.Welcome):
            self._ANSWERS[type(message)](self, message)
        self._advance()

    # -- training

    def _advance(self) -> None:
        """Goes on with whatever can go on."""
        if self.arrivals.over or self.arrivals.final or self.farewell is not None:
            return
        if self.book.base is None or self.stepping:
            return
        strategy = self.arrivals.strategy()
        if strategy.sends == "gradient":
            if self.book.unsent.steps:
                self._push(False, self.book.base)
            if len(self.book.in_flight) > strategy.overlap:
                return
        elif self.book.due(strategy.every):
            if self.book.full():
                return
            self._push(False, self.book.base)
        elif strategy.overlap == 0 and self.book.in_flight:
            return
        if len(self.units) <= 1 and self.asked is None:
            self.request += 1
            self.asked = s.AskUnits(self.name, self.book.generation, self.request, ASK, self.dataset)
            self._tell(self.asked)
        if self.units:
            self.step_count += 1
            self.stepping = self.step_count
            time_s = self.step_s * self.world.rng.uniform(0.8, 1.2)
            self.later(time_s, self._stepped, self.stepping, self.units[0], self.book.base)
        elif self.nothing_left and self.book.unsent.steps:
            self._push(True, self.book.base)

    def _stepped(self, count: int, unit: UnitId, base: Version) -> None:
        if count != self.stepping or self.farewell is not None:
            return  # the unit is not this learner's any more
        self.stepping = 0
        done = self.done_steps.setdefault(unit, set())
        step = min(i for i in range(self.steps_per_unit) if i not in done)
        done.add(step)
        ends = len(done) == self.steps_per_unit
        self.book.step(1, unit, ends)
        self.unsent.append((unit, step))
        if ends:
            self.units.popleft()
            del self.done_steps[unit]
        if self.arrivals.strategy().sends == "gradient":
            self._push(False, base)
        self._advance()

    def _push(self, last: bool, base: Version) -> None:
        push = self.book.cut("none", "", 0, self.step_s, last)
        push = msgspec.structs.replace(push, bases=(base,))
        self.pushes[push.seq] = (push, tuple(self.unsent))
        self.unsent = []
        self._bulk(m.Push(push), self.pushes[push.seq][1])

    def _upload(self, version: Version) -> None:
        self._bulk(m.StateUpload(self.name, self.book.generation, version), self.content)

    # -- answers of the coordinator

    def _welcome(self, message: e.Welcome) -> None:
        if not self.arrivals.welcomed(message):
            return
        if not self.wants_bulk:
            self.wants_bulk = True
            self.network.connect(self, "synchronizer", "bulk")
        else:
            self._bulk(m.Subscribe(self.name, self.book.generation, None))

    def _refuse(self, message: e.Refuse) -> None:
        raise AssertionError(f"{self.name} was refused: {message.reason}")

    def _grant(self, message: e.GrantUnits) -> None:
        if self.asked is None or message.request != self.asked.request:
            return
        self.nothing_left = not message.spans
        if message.spans:
            self.asked = None
            self.units.extend(ids(message.spans))

    def _donate(self, message: e.DonateState) -> None:
        wanted = self.arrivals.donated(message)
        if wanted is not None:
            self._upload(wanted)

    def _answer_push(self, message: e.AnswerPush) -> None:
        order = self.arrivals.answered(message)
        if isinstance(order, JoinAnew):
            self._rejoin()
        elif isinstance(order, Drop):
            self._settle(order.pushes)
            for unit in order.units & set(self.units):
                self.units.remove(unit)
                self.done_steps.pop(unit, None)
                self.stepping = 0

    def _rejoin(self, _: Any = None) -> None:
        """Joins anew: everything is dropped. Who is saying goodbye just goes."""
        if self.farewell is not None:
            self.released()
            return
        self.rejoins += 1
        self.arrivals.rejoin()
        self.unsent, self.pushes, self.done_steps = [], {}, {}
        self.units.clear()
        self.asked, self.nothing_left, self.request = None, False, 0
        self.stepping = 0
        self.incarnation = f"{self.first_incarnation}.{self.rejoins}"
        self._greet()

    def _goodbye(self, _: e.Goodbye) -> None:
        self.released()

    def _rolled_back(self, message: e.RollBack) -> None:
        self._take_all(self.arrivals.rolled_back(message))

    # -- versions

    def _take_all(self, put_aside: list[tuple[Any, Any]]) -> None:
        for made, payload in put_aside:
            self._version(made, payload)

    def _version(self, made: m.VersionMade, payload: Any) -> None:
        order = self.arrivals.take(made, payload)
        if isinstance(order, JoinAnew):
            self._rejoin()
        elif isinstance(order, Advance):
            self._advance_to(made, payload, order)
        elif isinstance(order, Load):
            self._load(made.version, payload, order)

    def _advance_to(self, made: m.VersionMade, payload: Any, order: Advance) -> None:
        self._settle(order.settled)
        self.content = payload if made.kind == "params" else Content(self.content, payload)
        if order.donate:
            self._upload(made.version)
        if order.reload:
            self._rejoin()

    def _load(self, version: Version, content: Content, order: Load) -> None:
        for seq in order.back:
            self.unsent.extend(self.pushes.pop(seq)[1])
        self._settle(order.settled)
        if order.rolled_back and not order.keep:
            self.stepping = 0  # a gradient under way is of a version that is gone: it is computed again
        self.content = content
        self._tell(s.Hold(self.name, self.book.generation, version))

    def _settle(self, pushes: list[int]) -> None:
        for seq in pushes:
            del self.pushes[seq]

    _ANSWERS: dict[type, Callable[[SimLearner, Any], None]] = {
        e.Welcome: _welcome,
        e.Refuse: _refuse,
        e.GrantUnits: _grant,
        e.DonateState: _donate,
        e.AnswerPush: _answer_push,
        e.RollBack: _rolled_back,
        e.Goodbye: _goodbye,
        e.Rejoin: _rejoin,
    }
