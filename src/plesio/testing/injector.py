"""The faults of a schedule, injected into real processes; each says what it did, or that it did not bite."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from plesio.testing import chaos_train
from plesio.testing.relay import Cut, Relay
from plesio.testing.schedules import LEARNERS, Fault
from plesio.testing.troupe import Command, Watch, send, state_of
from plesio.testing.waiting import wait_for

SLOW_BPS = 120e3  # a state of 270 kB takes 2 s
START_S = 60.0  # at most, until a process has started, on a machine that is busy
DIES_S = 60.0  # at most, from a signal to its effect
SUSPECTED_S = 2.3  # a little more than the least silence after which a name may be taken over


class DidNotBite(Exception):
    """The fault was injected too late, or hit nothing."""


class Bite(msgspec.Struct, kw_only=True):
    """A fault that took place."""

    kind: str
    unix_s: float
    until_unix_s: float  # from when on things could be made good again
    what: str
    killed: tuple[str, ...] = ()  # processes that have to come back: learners by name, coordinator, synchronizer


class Stage:
    """One run with its joiners. Owns the commands, the relay and the watch."""

    def __init__(self, folder: Path, mark: str, port: int, strategy: str) -> None:
        self.folder = folder
        self.mark = mark
        self.port = port
        self.run_dir = folder / "runs" / "r"
        self.relay = Relay(("127.0.0.1", port + 1))
        self.watch = Watch(self.run_dir)
        self.joined: list[Command] = []
        self.turned_away: list[Command] = []  # joiners that must end with an error
        self.ways: list[Relay] = []  # of joiners that have one of their own
        self.tokens = chaos_train.SAMPLES * chaos_train.SETTINGS[strategy][0]
        self.script = [chaos_train.__file__, strategy]
        settings = ["--strategy", strategy, "--codec", "int8", "--every", "10", "--start-rounds", "30"]
        self.main = self._main("run", ["--name", "r", "--learners", str(LEARNERS), *settings, *self.script])

    def _main(self, verb: str, words: list[str]) -> Command:
        where = ["--json", "--listen", f"127.0.0.1:{self.port}", "--token-file", str(self.folder / "secret")]
        return Command(f"{self.mark}-{verb}", [verb, *where, *words], self.folder, self._environment(self.relay))

    def _environment(self, relay: Relay) -> dict[str, str]:
        return {chaos_train.VIA: relay.address, chaos_train.HOLD: str(self.folder / "hold")}

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """The run hardly moves meanwhile: a process that has to start first may take long on a busy machine."""
        (self.folder / "hold").touch()
        try:
            yield
        finally:
            (self.folder / "hold").unlink()

    def resume(self) -> None:
        """Goes on with the run, after its machine is gone."""
        self.main = self._main("resume", [str(self.run_dir)])

    def join(self, name: str, relay: Relay | None = None) -> Command:
        """Another machine."""
        mark = f"{self.mark}-join{len(self.joined)}"
        words = ["join", f"127.0.0.1:{self.port}", "--token-file", str(self.folder / "secret"), "--name", name]
        joined = Command(mark, [*words, *self.script], self.folder, self._environment(relay or self.relay))
        self.joined.append(joined)
        return joined

    def prepare(self, fault: Fault) -> None:
        """What has to be there before this fault can be injected."""
        if fault.way == "replaced":
            wait_for(lambda: self.watch.of("MemberJoined"), "the run starts", START_S)
            with self.hold():
                self.join("guest")
                wait_for(lambda: self.watch.of("MemberJoined", "guest"), "the guest joins", START_S)

    def inject(self, fault: Fault) -> Bite:
        """Waits for its time and does it. Raises DidNotBite, or Hung."""
        at_tokens = fault.at * self.tokens
        wait_for(lambda: self.watch.merged_tokens() >= at_tokens or self.over(), f"{at_tokens:.0f} tokens", 90)
        if self.over():
            raise DidNotBite(f"{fault.kind}: the run was over before")
        bite = _KINDS[fault.kind](self, fault)
        if self.watch.of("RunFinished") and self.watch.of("RunFinished")[0]["unix_s"] < bite.unix_s:
            raise DidNotBite(f"{fault.kind}: the run was finished by then")
        return bite

    def over(self) -> bool:
        """Has the run ended, for good or bad?"""
        return self.main.process.poll() is not None or bool(self.watch.of("RunFinished"))

    def close(self) -> None:
        """Leaves nothing."""
        for command in (self.main, *self.joined):
            command.kill_all()
        for relay in (self.relay, *self.ways):
            relay.close()


def _kill(stage: Stage, fault: Fault) -> Bite:
    pids = [stage.main.running(name) for name in fault.victims]
    unix_s = time.time()
    sent = [send(pid, signal.SIGKILL) for pid in pids]
    if not all(sent):
        raise DidNotBite(f"{fault.kind}: {fault.victims} had just ended")
    wait_for(lambda: all(state_of(pid) in ("", "Z") for pid in pids), f"{fault.victims} die", DIES_S)
    what = f"SIGKILL to {', '.join(fault.victims)}"
    return Bite(kind=fault.kind, unix_s=unix_s, until_unix_s=unix_s, what=what, killed=fault.victims)


def _stop(stage: Stage, fault: Fault) -> Bite:
    (name,) = fault.victims
    pid, unix_s = stage.main.running(name), time.time()
    send(pid, signal.SIGSTOP)
    wait_for(lambda: state_of(pid) == "T", f"{name} stands still", DIES_S)
    time.sleep(fault.lasts_s)
    stood = state_of(pid)
    send(pid, signal.SIGCONT)
    if stood != "T":
        raise DidNotBite(f"{fault.kind}: {name} did not stand still for {fault.lasts_s} s ({stood or 'it ended'})")
    what = f"SIGSTOP to {name} for {fault.lasts_s} s"
    return Bite(kind=fault.kind, unix_s=unix_s, until_unix_s=time.time(), what=what)


def _all(stage: Stage, fault: Fault) -> Bite:
    before, unix_s = stage.watch.merged_tokens(), time.time()
    stage.main.kill_all()
    if stage.watch.of("RunFinished"):
        raise DidNotBite("all and resume: the run was finished by then")
    stage.resume()
    what = f"SIGKILL to the whole machine at {before} tokens, then `plesio resume`"
    everybody = ("coordinator", "synchronizer", *(f"learner-{i}" for i in range(LEARNERS)))
    return Bite(kind=fault.kind, unix_s=unix_s, until_unix_s=unix_s, what=what, killed=everybody)


def _reset(stage: Stage, fault: Fault) -> Bite:
    cut = stage.relay.cut = Cut(fault.way, fault.where)
    connections = stage.relay.connections
    wait_for(lambda: cut.of_bytes or stage.over(), "a chunk to cut", START_S)
    if not cut.of_bytes:
        raise DidNotBite("reset in a chunk: no chunk came any more")
    wait_for(lambda: stage.relay.connections > connections, "whoever was cut connects again", START_S)
    what = f"reset after {cut.passed_bytes} of {cut.of_bytes} bytes of a chunk {fault.way}"
    return Bite(kind=fault.kind, unix_s=cut.unix_s, until_unix_s=cut.unix_s, what=what)


def _joiner(stage: Stage, fault: Fault) -> Bite:
    """It pulls its state over a slow way of its own, and dies in the middle of it."""
    way = Relay(("127.0.0.1", stage.port + 1))
    way.down_bps = SLOW_BPS
    stage.ways.append(way)
    with stage.hold():
        joiner = stage.join("joiner", way)
        wait_for(lambda: way.pulled >= 0.8 * fault.where or stage.over(), "the joiner pulls its state", START_S)
    pid, unix_s, pulled = joiner.running("joiner"), time.time(), way.pulled
    joiner.kill_all() if fault.way == "machine" else send(pid, signal.SIGKILL)
    wait_for(lambda: state_of(pid) in ("", "Z"), "the joiner dies", DIES_S)
    if not 0 < way.pulled < 1 or stage.watch.of("ContributionAccepted", "joiner"):
        raise DidNotBite("joiner killed while it pulls state: it had all of it, or the run was over")
    way.down_bps = 0.0
    killed = () if fault.way == "machine" else ("joiner",)
    what = f"SIGKILL to a joiner's {fault.way} when it had {pulled:.0%} of its state"
    return Bite(kind=fault.kind, unix_s=unix_s, until_unix_s=unix_s, what=what, killed=killed)


def _newcomer(stage: Stage, fault: Fault) -> Bite:
    """It dies twice soon after it has joined, and takes part the third time."""
    unix_s = 0.0
    with stage.hold():
        newcomer = stage.join("newcomer")
        for generation in (1, 2):
            _joined(stage, "newcomer", generation)
            pid = newcomer.running("newcomer")
            time.sleep(fault.lasts_s)
            unix_s = unix_s or time.time()
            send(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: state_of(pid) in ("", "Z"), "the newcomer dies", DIES_S)  # type: ignore[misc]
        _joined(stage, "newcomer", 3)
    until_unix_s = time.time()
    _contributes(stage, "newcomer", 3)
    what = f"SIGKILL to a newcomer, twice, {fault.lasts_s} s after it had joined; then it took part"
    return Bite(kind=fault.kind, unix_s=unix_s, until_unix_s=until_unix_s, what=what)


def _stale(stage: Stage, fault: Fault) -> Bite:
    """A learner stands still until its generation is over, and comes back with it."""
    return _silent(stage, fault) if fault.way == "silent" else _replaced(stage, fault)


def _silent(stage: Stage, fault: Fault) -> Bite:
    """The others run out of work, and its units are taken back; it has to join anew."""
    (name,) = fault.victims
    pid, unix_s = stage.main.running(name), time.time()
    send(pid, signal.SIGSTOP)
    wait_for(lambda: stage.watch.of("MemberEnded", name, unix_s) or stage.over(), f"{name} is given up", START_S)
    with stage.hold():  # so that there is a run to come back to
        send(pid, signal.SIGCONT)
        wait_for(lambda: stage.watch.of("MemberJoined", name, unix_s) or stage.over(), f"{name} joins anew", START_S)
    ended, joined = (stage.watch.of(kind, name, unix_s) for kind in ("MemberEnded", "MemberJoined"))
    if not ended or not joined or joined[0]["incarnation"].partition(".")[1] != ".":
        raise DidNotBite(f"{fault.kind}: {name} did not join anew")
    what = f"SIGSTOP to {name} until its units were taken back; it came back with its old generation"
    return Bite(kind=fault.kind, unix_s=unix_s, until_unix_s=joined[0]["unix_s"], what=what)


def _replaced(stage: Stage, fault: Fault) -> Bite:
    """A guest stands still, another process takes its name over, and the first one wakes up."""
    guest = stage.joined[0]
    _contributes(stage, "guest", 1)
    pid, unix_s = guest.running("guest"), time.time()
    send(pid, signal.SIGSTOP)
    wait_for(lambda: state_of(pid) == "T", "the guest stands still", DIES_S)
    time.sleep(SUSPECTED_S)
    try:
        with stage.hold():
            stage.join("guest")
            _joined(stage, "guest", 2)
        until_unix_s = time.time()
        _contributes(stage, "guest", 2)
    finally:
        send(pid, signal.SIGCONT)
    wait_for(lambda: stage.watch.of("PeerRefused", after_unix_s=until_unix_s) or stage.over(), "it is refused", START_S)
    stage.turned_away.append(guest)
    if not any("taken by a learner that is alive" in e["reason"] for e in stage.watch.of("PeerRefused")):
        raise DidNotBite("stale generation comes back: it did not come back in time")
    what = "a guest stood still until another process had its name, and came back with its old generation"
    return Bite(kind=fault.kind, unix_s=unix_s, until_unix_s=until_unix_s, what=what)


def _joined(stage: Stage, name: str, generation: int) -> None:
    def is_there() -> bool:
        return any(e["generation"] == generation for e in stage.watch.of("MemberJoined", name))

    wait_for(lambda: is_there() or stage.over(), f"{name} joins", START_S)
    if not is_there():
        raise DidNotBite(f"{name}: the run was over before generation {generation} joined")


def _contributes(stage: Stage, name: str, generation: int) -> None:
    def has() -> bool:
        pushes = [e["contribution"] for e in stage.watch.of("ContributionAccepted", name)]
        return any(push["generation"] == generation for push in pushes)

    wait_for(lambda: has() or stage.over(), f"{name} contributes", START_S)
    if not has():
        raise DidNotBite(f"{name}: the run was over before generation {generation} contributed")


_KINDS: dict[str, Callable[[Stage, Fault], Bite]] = {
    "kill learner": _kill,
    "kill synchronizer": _kill,
    "kill coordinator": _kill,
    "stop learner": _stop,
    "stop synchronizer": _stop,
    "stop coordinator": _stop,
    "several at once": _kill,
    "all and resume": _all,
    "reset in a chunk": _reset,
    "joiner killed while it pulls state": _joiner,
    "newcomer that restarts twice": _newcomer,
    "stale generation comes back": _stale,
}
