"""A schedule as text, the same on the command line and in code: `sync until tokens=200k; decoupled(every=16)`."""

from __future__ import annotations

import inspect
import re
from typing import Any

from plesio.errors import UserError
from plesio.registry import STRATEGIES, load
from plesio.strategies.base import Strategy
from plesio.strategies.schedule import Phase, Schedule

PHASE = re.compile(r"([a-z][a-z0-9_-]*)\s*(?:\(([^()]*)\))?\s*(?:until\s+(tokens|rounds)\s*=\s*(\S+))?")
SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def parse(text: str, every: int | None = None, start_rounds: int | None = None) -> Schedule:
    """Phases `NAME[(KEY=VALUE, ...)] [until tokens=N|rounds=N]`, parted by ';'. Raises UserError saying the mend.

    every: H of the phases that have one and do not name it. start_rounds: synchronous rounds before a single phase
    (None: as many as the strategy wants). N counts from the run's beginning, and may end in k, M or G.
    """
    phases = [_phase(part.strip(), every) for part in text.split(";")]
    for number, phase in enumerate(phases, 1):
        ends = phase.until_rounds is not None or phase.until_tokens is not None
        if ends == (number == len(phases)):
            mend = (
                "the last one has no end; leave its `until` out, or add what follows" if ends
                else "say until when it goes on: `until tokens=N` or `until rounds=N`"
            )  # fmt: skip
            raise UserError(f"phase {number} of the schedule {text!r} ({phase.strategy.name}): {mend}")
    if len(phases) > 1:
        if start_rounds:
            raise UserError(f"--start-rounds does not go with phases; write `sync until rounds={start_rounds}; ...`")
        return Schedule(tuple(phases))
    main = phases[0].strategy
    rounds = main.warmup_rounds if start_rounds is None else start_rounds
    start: Strategy = load(STRATEGIES, "strategy", "sync")()
    return Schedule.of(main, start if main.name != start.name else None, rounds)


def _phase(part: str, every: int | None) -> Phase:
    found = PHASE.fullmatch(part)
    if found is None:
        raise UserError(
            f"cannot read {part!r} in the strategy; write NAME, NAME(KEY=VALUE) or NAME until tokens=N, parted by ';'"
        )
    name, arguments, what, until = found.groups()
    make = load(STRATEGIES, "strategy", name)
    known = inspect.signature(make).parameters
    settings: dict[str, Any] = {"every": every} if every is not None and "every" in known else {}
    for pair in filter(None, (p.strip() for p in (arguments or "").split(","))):
        key, _, value = (x.strip() for x in pair.partition("="))
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(f"strategy {name!r} has no setting {key!r}; {has}")
        settings[key] = _whole(value, pair) if "int" in str(known[key].annotation) else _number(value, pair)
    amount = None if until is None else _whole(until, f"until {what}={until}")
    if amount is not None and amount < 1:
        raise UserError(f"strategy {name!r}: until {what}={until} must be at least 1")
    try:
        strategy = make(**settings)
    except ValueError as error:
        raise UserError(f"strategy {name!r}: {error}") from error
    return Phase(strategy, amount if what == "rounds" else None, amount if what == "tokens" else None)


def _whole(text: str, where: str) -> int:
    value = _number(text, where)
    if value != int(value):
        raise UserError(f"{where!r} in the strategy: {text!r} is not a whole number")
    return int(value)


def _number(text: str, where: str) -> float:
    factor = SUFFIXES.get(text[-1:].lower(), 1)
    try:
        value = float(text[:-1] if factor > 1 else text) * factor
        if value == value and abs(value) < 2**53:
            return value
    except ValueError:
        pass
    raise UserError(f"{where!r} in the strategy: {text!r} is not a number such as 16, 0.7 or 200k")
