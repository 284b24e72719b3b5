"""A whole simulated run: coordinator, synchronizer, learners, and the launcher that restarts them."""

from __future__ import annotations

from plesio.core import stimuli as s
from plesio.core.spec import RunSpec
from plesio.records import Dataset, Version
from plesio.sim.check import Reference
from plesio.sim.content import Content
from plesio.sim.coordinator import Journal, SimCoordinator
from plesio.sim.faults import Faults
from plesio.sim.learner import SimLearner
from plesio.sim.network import Connection, Network
from plesio.sim.synchronizer import SimSynchronizer
from plesio.sim.world import Process, World
from plesio.strategies.schedule import Schedule


class Launcher(Process):
    """Tells the coordinator which processes ended; again on every connection."""

    def __init__(self, world: World, network: Network) -> None:
        super().__init__(world, "launcher")
        self.network = network
        self.control: Connection | None = None
        self.ended: list[s.ProcessEnded] = []

    def connected(self, connection: Connection) -> None:
        self.control = connection
        for message in self.ended:
            connection.send(self, message)

    def lost(self, connection: Connection) -> None:
        self.control = None
        self.network.connect(self, "coordinator", "control")

    def saw(self, name: str, incarnation: str) -> None:
        """A learner's process ended."""
        self.ended = [*self.ended[-3:], s.ProcessEnded(name, incarnation, "killed")]
        if self.control is not None:
            self.control.send(self, self.ended[-1])


class Cluster:
    """Owns all processes of one run, its journal and its disk."""

    def __init__(
        self,
        seed: int,
        schedule: Schedule,
        learners: int,
        units: int,
        steps: int = 1,
        epochs: int = 1,
        faults: int = 0,
        rate: float = 0.02,
        speeds: tuple[float, ...] = (),
    ) -> None:
        self.world = World(seed)
        self.network = Network(self.world)
        downlink = "int8" if seed // 4 % 2 else "none"  # changes, or whole versions of which some may be missed
        self.spec = RunSpec(
            run=f"sim-{seed}", learners=learners, schedule=schedule, epochs=epochs, downlink=downlink
        )
        self.dataset = Dataset(units, 1, epochs)
        self.steps = steps
        self.speeds = speeds or tuple(self.world.rng.uniform(0.03, 0.2) for _ in range(learners))
        self.faults = Faults(self, faults, rate)
        self.world.before_event = self.faults.before_event
        self.network.weather = self.faults.weather
        self.disk: dict[str, tuple[Version, Content]] = {}
        self.reference = Reference(schedule, steps)
        self.journal = Journal(self.reference.committed)
        self.restarts = 0
        self.launcher = Launcher(self.world, self.network)
        self.learners: dict[str, SimLearner] = {}
        self.coordinator: SimCoordinator | None = None
        self.synchronizer: SimSynchronizer | None = None
        self.world.at(0.0, self._start_coordinator)
        self.world.at(0.0, self._start_synchronizer)
        for i in range(learners):
            self.world.at(0.0, self._start_learner, f"learner-{i}", self.speeds[i])
        self.network.connect(self.launcher, "coordinator", "control")

    def run(self, until_s: float = 2000.0) -> None:
        """To the end; raises AssertionError when it does not come, or an invariant breaks."""
        finished = self.world.run(until_s, lambda: bool(self.reference.finished))
        assert finished, f"not finished after {until_s} virtual seconds: {self.reference.summary()}"
        self.reference.check_end(self.dataset, self.disk)

    def kill(self, process: Process) -> None:
        """kill -9; the launcher starts it again after a while."""
        self.network.kill(process)
        delay_s = self.world.rng.uniform(0.05, 1.0)
        if isinstance(process, SimLearner):
            self.world.at(self.world.rng.uniform(0.0, 0.1), self.launcher.saw, process.name, process.incarnation)
            self.world.at(delay_s, self._start_learner, process.name, process.step_s)
        elif isinstance(process, SimSynchronizer):
            self.world.at(delay_s, self._start_synchronizer)
        else:
            self.world.at(delay_s, self._start_coordinator)

    def _start_coordinator(self) -> None:
        self.restarts += 1
        point = self.faults.point
        self.coordinator = SimCoordinator(self.world, self.network, self.journal, self.spec, self.restarts, point)
        self.coordinator.after = lambda c: self.reference.compare(c.state.durable)
        self.coordinator.start()

    def _start_synchronizer(self) -> None:
        self.restarts += 1
        name = f"s{self.restarts}"
        self.synchronizer = SimSynchronizer(self.world, self.network, self.disk, name, self.faults.point)
        self.synchronizer.start()

    def _start_learner(self, name: str, step_s: float) -> None:
        self.restarts += 1
        learner = SimLearner(self.world, self.network, name, f"p{self.restarts}", step_s, self.dataset, self.steps)
        learner.leave = lambda: self._leave(learner)
        self.learners[name] = learner
        learner.start()

    def _leave(self, learner: SimLearner) -> None:
        """It asks to go, and goes when it may, or after a while; the launcher starts another."""
        learner.released = lambda: self.kill(learner) if learner.alive else None
        learner.say_goodbye()
        self.world.at(self.world.rng.choice((0.05, 5.0)), learner.released)
