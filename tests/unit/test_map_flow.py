"""How many batches are under way, over both functions, and in which order their tasks are given away. No pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from plesio.batch import flow, work
from plesio.batch.flow import Call, Flow, Stage
from plesio.batch.spans import Piece, cut

BATCH = 4


class Answer:
    """A task of a pool that is done when somebody does it."""

    def __init__(self, stage: int, requires: dict[str, float], priority: int, call: Callable[[], Any]) -> None:
        self.stage, self.requires, self.priority = stage, requires, priority
        self._call = call
        self._result: list[Any] | None = None

    def do(self) -> None:
        self._result = self._call()

    def done(self) -> bool:
        return self._result is not None

    def exception(self) -> None:
        return None

    def result(self) -> Any:
        return self._result

    def add_done_callback(self, _: Any) -> None:
        """Nobody does anything meanwhile."""


class Pool:
    """In place of a client: holds what is submitted, until it is said who may work."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def ask(self, what: str) -> list[dict[str, int]]:
        return [{"connected": 1}]

    def submit(self, name: str, *args: Any, queue: str, priority: int, retries: int, requires: Any) -> Answer:
        answer = Answer(work.APPLY.index(name), requires, priority, lambda: work.apply(*args))
        self.answers.append(answer)
        return answer

    def waiting(self, stage: int) -> list[Answer]:
        return [answer for answer in self.answers if answer.stage == stage and not answer.done()]


def one(record: Any) -> Any:
    return [record, 1]


def two(record: Any) -> Any:
    return [*record, 2]


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    monkeypatch.setattr(flow, "LOOK_S", 0.0)
    monkeypatch.setattr(flow, "TASK_S", 0.0)  # a batch a task
    monkeypatch.setattr(work, "prepare", lambda fn, _: work.Prepared({"one": one, "two": two}[fn], False))
    return Pool()


def begun(pool: Pool, count: int) -> tuple[Flow, Iterator[Any]]:
    stages = (Stage("one", requires={"gpu": 1.0}), Stage("two", requires={"cpu": 1.0}))
    made = Flow(pool, Call(stages, "q", BATCH, 1000))  # type: ignore[arg-type]
    lines = [b"%d\n" % i for i in range(count)]
    chunks = (lines[i : i + BATCH] for i in range(0, count, BATCH))
    pieces: Iterator[list[Piece]] = cut(chunks, 0, int, BATCH, False, made.together)
    return made, made.run(pieces)


def test_a_second_function_that_is_slow_holds_up_the_first(pool: Pool) -> None:
    _, spans = begun(pool, 10_000)
    for _ in range(50):
        assert next(spans) is None
        for answer in pool.waiting(0):
            answer.do()
    assert len(pool.waiting(1)) == flow.LEAST and not pool.waiting(0)
    pool.waiting(1)[0].do()
    assert next(spans) is not None and len(pool.waiting(1)) == flow.LEAST - 1
    for _ in range(5):
        assert next(spans) is None
    assert len(pool.waiting(0)) == 1, "as many follow as have ended"


def test_what_both_have_made_of_the_records_is_in_order(pool: Pool) -> None:
    _, spans = begun(pool, 1000)
    out = b""
    for span in spans:
        out += span.out if span is not None else b""
        for stage in (1, 0):
            for answer in reversed(pool.waiting(stage)):
                answer.do()
    assert out == b"".join(b"[%d,1,2]\n" % i for i in range(1000))


def test_each_function_s_tasks_are_for_its_workers_and_what_is_begun_is_ended_first(pool: Pool) -> None:
    _, spans = begun(pool, 100)
    for span in spans:
        assert span is None or not span.dead
        for answer in pool.answers:
            answer.do()
    assert {(a.stage, *a.requires, a.priority) for a in pool.answers} == {(0, "gpu", 0), (1, "cpu", 1)}
    assert len(pool.answers) == 2 * 25


def test_tasks_are_as_long_as_the_slower_of_the_two_allows(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = begun(pool, 0)
    monkeypatch.setattr(flow, "TASK_S", 0.1)
    made._record_s = [0.0001, 0.0]
    assert made.together() == 1, "nobody knows yet how slow the second is"
    made._record_s = [0.0001, 0.005]
    assert made.together() == 5
