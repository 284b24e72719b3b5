"""What a pool's log says, of all and of one task."""

from __future__ import annotations

from typing import get_args

from plesio.core.pool import facts as f
from plesio.core.pool.places import COUNTER, LOCK, Hold
from plesio.core.pool.recipe import Recipe, task_id
from plesio.reporting import poollog

A, B = task_id(3, 1), task_id(3, 2)
FACTS = [
    f.ClientJoined(3, "s" * 16),
    f.TasksSubmitted(3, 1, Recipe("m:f"), (b"", b""), 1.0),
    f.TasksLeased("n.0", (A, B)),
    f.AttemptFailed(B, "n.0", "raised", "Traceback\nValueError: no", 0.0),
    f.TasksReturned("n.0", (A,), "lost", A),
    f.TasksLeased("n.1", (A,)),
    f.TasksDone("n.1", (A,), (b"\xc0",), 2.0),
    f.TaskDied(B, "n.1", "raised", "ValueError: no", 3.0),
]
BATCHES = [(i + 1, 1000.0 + i, [fact]) for i, fact in enumerate(FACTS)]


def test_the_story_of_one_task_is_told_in_order() -> None:
    told = [line.partition(" ")[2].partition(" ")[2] for line in poollog.lines(BATCHES, task=A)]
    assert told == [
        "task 3-1 submitted: m:f in queue 'default'",
        "task 3-1 given to n.0",
        "task 3-1 went back from n.0: lost; 3-1 was running",
        "task 3-1 given to n.1",
        "task 3-1 done by n.1, 1 bytes of results",
    ]
    assert "ValueError: no" in list(poollog.lines(BATCHES, task=B))[-1]


def test_what_happened_at_some_time_is_told() -> None:
    assert len(list(poollog.lines(BATCHES))) == len(FACTS)
    [line] = poollog.lines(BATCHES, since=1002.0, until=1003.0)
    assert "tasks 3-1, 3-2 given to n.0" in line


def test_there_are_words_for_every_fact() -> None:
    assert set(poollog._WORDS) == set(get_args(f.AnyFact))


def test_who_held_what_is_told() -> None:
    hold = Hold(7, 3, 1, LOCK, "report", "host:1 MainThread#1", False, 1)
    facts = [
        f.PlaceTaken(hold),
        f.PlaceReleased(7, 2),
        f.PlacesLost(3, (8, 9), "nothing was heard of it"),
        f.ValueSet(3, 4, COUNTER, "rows", 5),
        f.BarrierPassed("epoch", 2, ((3, 5), (4, 1)), 1.0),
        f.BarriersForgotten(("epoch",)),
        f.AnswersHeard(3, 100, ()),
    ]
    assert [poollog.say(fact) for fact in facts] == [
        "lock 'report' held by client 3 (host:1 MainThread#1), token 7",
        "token 7 released",
        "client 3 lost what it held, tokens 8, 9: nothing was heard of it",
        "counter 'rows' is 5, by client 3",
        "barrier 'epoch' passed by 2, generation 2",
        "barriers 'epoch' forgotten: nobody came for long",
        "client 3 has heard its answers up to 100",
    ]
