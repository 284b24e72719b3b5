"""A pool's core by hand: stimuli in, effects out, the journal kept. For tests of decisions."""

from __future__ import annotations

from typing import Any

import msgspec

from plesio.core.pool import coordinator as core
from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import outcome
from plesio.core.pool import stimuli as s
from plesio.core.pool.recipe import Recipe, task_id
from plesio.core.pool.state import Durable, Kept, apply, freeze, thaw
from plesio.core.pool.turn import State

ANN = "a" * 16  # its client's session, number 1
FN = "m:f"

encode = msgspec.msgpack.Encoder().encode
decode_facts = msgspec.msgpack.Decoder(list[f.AnyFact]).decode
decode_kept = msgspec.msgpack.Decoder(Kept).decode


class Bench:
    """A pool with one client and, if wanted, slots; keeps its journal."""

    def __init__(self, *slots: str) -> None:
        self.state = State()
        self.now_s = 1.0
        self.journal: list[f.AnyFact] = []
        self.give(s.TakeLead(1), s.ClientUp(ANN))
        for slot in slots:
            self.slot_up(slot)

    def give(self, *stimuli: s.Stimulus) -> list[e.Effect]:
        """Handles these together; what was decided goes to the journal as it would be written."""
        facts, effects = core.handle(self.state, self.now_s, stimuli)
        self.journal += decode_facts(encode(facts))
        return effects

    def wait(self, seconds: float) -> list[e.Effect]:
        """So many seconds pass."""
        self.now_s += seconds
        return self.give(s.Tick())

    def slot_up(self, slot: str, *holds: int, node: str = "", incarnation: str = "1", **tags: float) -> list[e.Effect]:
        """A slot connects."""
        node = node or f"node of {slot}"
        self.give(s.NodeUp(node, ((slot, incarnation),)))
        return self.give(s.SlotUp(slot, node, incarnation, tuple(tags.items()), holds))

    def submit(self, first: int, count: int = 1, **options: Any) -> list[e.Effect]:
        """The client's tasks number `first` and so on."""
        ways = {k: options.pop(k) for k in ("key", "needs", "delay_s") if k in options}
        recipe = Recipe(options.pop("fn", FN), **options)
        return self.give(s.Submit(ANN, first, recipe, (b"x",) * count, **ways))

    def finish(self, slot: str, *numbers: int, incarnation: str = "1", busy_s: float = 1e-4) -> list[e.Effect]:
        """A slot has done these tasks of the client."""
        ids = tuple(task_id(1, n) for n in numbers)
        return self.give(s.Finished(slot, incarnation, ids, (b"r",) * len(ids), busy_s * len(ids)))

    def fail(self, slot: str, n: int, kind: str = outcome.RAISED, **more: Any) -> list[e.Effect]:
        """A slot failed at one."""
        return self.give(s.Failed(slot, "1", task_id(1, n), kind, "it", **more))

    def call(self, n: int) -> Any:
        """The client's n-th task."""
        return self.state.durable.book.calls[task_id(1, n)]

    def fold(self) -> Durable:
        """What the journal tells."""
        durable = Durable()
        for fact in self.journal:
            apply(durable, fact)
        return durable

    def thawed(self) -> Durable:
        """What a snapshot tells."""
        return thaw(decode_kept(encode(freeze(self.state.durable))))

    def restart(self, durable: Durable | None = None) -> None:
        """A new coordinator, from the journal."""
        self.state = State(durable or self.fold())
        core.recover(self.state, self.now_s)


def runs(effects: list[e.Effect]) -> dict[str, list[int]]:
    """What each slot was told to run, as numbers of the client's tasks."""
    told: dict[str, list[int]] = {}
    for effect in effects:
        if isinstance(effect, e.Run):
            told.setdefault(effect.slot, []).extend(id & 0xFFFFFFFF for order in effect.orders for id in order.ids)
    return told


def told(effects: list[e.Effect]) -> list[int]:
    """The tasks whose results the client was told."""
    return [id & 0xFFFFFFFF for x in effects if isinstance(x, e.Tell) for id in x.ids]
