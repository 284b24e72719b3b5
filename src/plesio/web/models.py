"""The bodies of requests and answers. What is not known is refused, and nothing is guessed: "3" is no number."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from plesio.core.pool.recipe import DEFAULT_QUEUE, MAX_PRIORITY

MAX_NAME = 400  # characters, as in core/pool
LONGEST_WAIT_S = 60.0  # a request; ask again after that
LONGEST_S = 1e8
MOST_TAKEN = 1000  # messages at once


def _plain(text: str) -> str:
    """Half of a character's pair cannot be sent on."""
    text.encode()  # UnicodeEncodeError is a ValueError
    return text


def _whole(number: Any) -> Any:
    """JSON knows one kind of number: 3.0 is 3."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


WHOLE = BeforeValidator(_whole)
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_plain)]
TaskId = Annotated[str, Path(pattern=r"^[0-9]{1,12}-[0-9]{1,13}$", description="A task's id, like 3-17.")]
RunName = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$", description="A run's name.")]
QueueName = Annotated[str, Path(min_length=1, max_length=MAX_NAME), AfterValidator(_plain)]
Seconds = Annotated[float, Field(ge=0, le=LONGEST_S, allow_inf_nan=False)]
WaitS = Annotated[float, Field(ge=0, le=LONGEST_WAIT_S, allow_inf_nan=False)]
Priority = Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY), WHOLE]
State = Literal["waiting", "ready", "leased", "done", "dead", "cancelled"]


class Body(BaseModel):
    """Of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Call(Body):
    """One call of a function. See docs/http.md for values that JSON has not."""

    fn: Annotated[
        str,
        Field(
            pattern=r"^\S.{0,299}:[^\s:]{1,99}$",
            description="package.module:function, as the workers import it",
            examples=["math:gcd"],
        ),
        AfterValidator(_plain),
    ]
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    queue: Name = DEFAULT_QUEUE
    priority: Annotated[Priority, Field(description="higher ones begin earlier")] = 0
    key: Annotated[
        str,
        Field(max_length=MAX_NAME, description="a task with the same key in the queue is not made twice"),
        AfterValidator(_plain),
    ] = ""
    delay_s: Annotated[Seconds, Field(description="not before so many seconds")] = 0.0
    timeout_s: Annotated[Seconds, Field(description="of one attempt; 0: none")] = 0.0
    retries: Annotated[int, Field(ge=0, le=1_000_000, description="when it raises or runs out of time"), WHOLE] = 0
    requires: Annotated[dict[Name, Seconds], Field(description="tags of the worker", examples=[{"gpu": 1}])] = {}
    wait_s: Annotated[WaitS, Field(description="the result is in the answer if it is there by then")] = 0.0


class Error(BaseModel):
    """How a task, or its last attempt, failed."""

    kind: str
    message: str


class Submitted(BaseModel):
    """It is durable. result, error: when it has ended by now."""

    id: str
    state: State
    result: Any = None
    error: Error | None = None


class Task(BaseModel):
    """A task as the pool knows it. attempts: those that are over and did not end it."""

    id: str
    fn: str
    state: State
    queue: str
    priority: int
    worker: str
    attempts: int
    error: Error | None

    @classmethod
    def of(cls, row: dict[str, Any]) -> Task:
        """From what the pool tells."""
        error = Error(kind=row["kind"], message=row["message"]) if row["kind"] else None
        return cls(**{name: row[name] for name in cls.model_fields if name != "error"}, error=error)


class Tasks(BaseModel):
    """The newest first."""

    tasks: list[Task]


class Result(BaseModel):
    """What the function returned."""

    id: str
    state: Literal["done"]
    result: Any


class NotYet(BaseModel):
    """It has not ended."""

    id: str
    state: State


class Change(Body):
    """What of a queue is to be otherwise; what is not said stays as it is."""

    capacity: Annotated[int, Field(ge=1, le=1 << 53, description="what may wait in it"), WHOLE] | None = None
    rate_per_s: Annotated[float, Field(ge=0, lt=1e9, allow_inf_nan=False, description="0: any")] | None = None
    paused: bool | None = None


class Queue(BaseModel):
    """Of tasks, of messages, or of both."""

    name: str
    capacity: int
    rate_per_s: float
    paused: bool
    waiting: int
    running: int


class Queues(BaseModel):
    """All of them."""

    queues: list[Queue]


class Put(Body):
    """A message."""

    value: Any
    priority: Priority = 0
    delay_s: Seconds = 0.0


class MessageId(BaseModel):
    """It is durable."""

    id: str


class Take(Body):
    """Messages, as soon as there is one at least."""

    count: Annotated[int, Field(ge=1, le=MOST_TAKEN), WHOLE] = 1
    wait_s: WaitS = 0.0
    lease_s: Annotated[float, Field(gt=0, le=3600, description="then it comes again, unless it was settled")] = 60.0


class Message(BaseModel):
    """One that was taken. attempts: how often it came back before."""

    id: str
    value: Any
    attempts: int


class Messages(BaseModel):
    """None when none came."""

    messages: list[Message]


class Nack(Body):
    """It comes again."""

    delay_s: Seconds = 0.0


class Settled(BaseModel):
    """It is durable."""

    id: str
    settled: Literal["acknowledged", "given back"]


class Removed(BaseModel):
    """What waited in it is cancelled."""

    removed: str


class Worker(BaseModel):
    """A slot: a place where one task runs at a time."""

    slot: str
    node: str
    connected: bool
    tasks: int
    tags: dict[str, float]
    speed: float | None


class Workers(BaseModel):
    """All of them."""

    workers: list[Worker]


class Counts(BaseModel):
    """Tasks, by what has become of them. Those that were forgotten count, too."""

    waiting: int
    running: int
    done: int = 0
    dead: int = 0
    cancelled: int = 0


class Run(BaseModel):
    """A training run. until: tokens that it was asked for; live: learners just now; loss: of their last steps."""

    run: str
    state: Literal["submitted", "waiting", "running", "stopping", "finished", "stopped", "failed"]
    learners: int
    priority: int
    tokens: int = 0
    until: int | None = None
    units: list[int] = Field(default=[], description="applied, and in all")
    live: int = 0
    loss: float | None = None
    held_out: float | None = None
    error: str = ""

    @classmethod
    def of(cls, row: dict[str, Any]) -> Run:
        """As the pool tells it."""
        return cls(**{key: value for key, value in row.items() if key in cls.model_fields})


class Runs(BaseModel):
    """All of them."""

    runs: list[Run]


class Health(BaseModel):
    """This process answers."""

    status: Literal["ok"]
