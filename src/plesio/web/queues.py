"""Routes of queues: settings, and messages put, taken, acknowledged, given back.

A name may hold slashes: that of a subscription is `topic/subscription`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.convertors import Convertor, register_url_convertor

from plesio.errors import UserError
from plesio.web.gateway import PATIENCE_S, Gateway, refusal_of
from plesio.web.guard import SIZE
from plesio.web.held import MOST_HELD
from plesio.web.models import (
    Change,
    MessageId,
    Messages,
    Nack,
    Put,
    Queue,
    QueueName,
    Queues,
    Removed,
    Settled,
    Take,
    TaskId,
)
from plesio.web.problems import AGAIN_S, Refusal, away, documented
from plesio.web.tasks import gateway_of
from plesio.web.values import TooLarge, from_json, to_json


class NameInPath(Convertor[str]):
    """Anything but what stands behind a name."""

    regex = "(?:(?!/messages(?:/|$)|/take$).)+"

    def convert(self, value: str) -> str:
        """See Convertor."""
        return value

    def to_string(self, value: str) -> str:
        """See Convertor."""
        return value


register_url_convertor("queue", NameInPath())
router = APIRouter(prefix="/v1/queues", tags=["queues"])


@router.get("", response_model=Queues, responses=documented())
async def ls(request: Request) -> Queues:
    """All queues, of tasks and of messages."""
    return Queues(queues=[Queue(**row) for row in await gateway_of(request).ask("queues")])


@router.post("/{name:queue}/messages/{id}/ack", response_model=Settled, responses=documented(404))
async def ack(name: QueueName, id: TaskId, request: Request) -> Settled:
    """It is done and does not come again. 404: it was not taken through HTTP, its lease is over, or it is settled."""
    await _settle(gateway_of(request), id, True, 0.0)
    return Settled(id=id, settled="acknowledged")


@router.post("/{name:queue}/messages/{id}/nack", response_model=Settled, responses=documented(404))
async def nack(name: QueueName, id: TaskId, request: Request, body: Nack | None = None) -> Settled:
    """It comes again, not before `delay_s`."""
    await _settle(gateway_of(request), id, False, body.delay_s if body is not None else 0.0)
    return Settled(id=id, settled="given back")


@router.post("/{name:queue}/messages", status_code=201, response_model=MessageId, responses=documented())
async def put(name: QueueName, body: Put, request: Request) -> MessageId:
    """Durable when this answers. 429: the queue is full."""
    gateway = gateway_of(request)
    try:
        put = partial(gateway.client.queue(name).put, from_json(body.value), body.priority, body.delay_s, block=False)
    except UserError as error:
        raise refusal_of(error) from error
    future = await gateway.submit(request.scope[SIZE], lambda durable: put(on_durable=durable))
    return MessageId(id=future.name)


@router.post("/{name:queue}/take", response_model=Messages, responses=documented())
async def take(name: QueueName, body: Take, request: Request) -> JSONResponse:
    """As soon as there is one at least, or none after `wait_s`. Who takes has `lease_s` to ack or nack each."""
    gateway = gateway_of(request)
    if len(gateway.held) + body.count > MOST_HELD:
        raise Refusal(429, "busy", f"HTTP clients hold {len(gateway.held)} messages; ack some", retry_s=AGAIN_S)
    try:
        taken = await gateway.client.queue(name).get_many_async(body.count, body.wait_s)
    except TimeoutError:
        raise away() from None
    if not taken and body.wait_s:
        await gateway.ask("waiting", name)  # is the pool there?
    rows = [
        {"id": gateway.held.add(message, body.lease_s), "value": _value(message.value), "attempts": message.attempts}
        for message in taken
    ]
    return JSONResponse({"messages": rows})


@router.get("/{name:queue}", response_model=Queue, responses=documented(404))
async def show(name: QueueName, request: Request) -> Queue:
    """One queue."""
    row = await _row(gateway_of(request), name)
    if row is None:
        raise _unknown(name)
    return Queue(**row)


@router.post("/{name:queue}", response_model=Queue, responses=documented())
async def change(name: QueueName, body: Change, request: Request) -> Queue:
    """Make a queue, or change it; what is not said stays as it is."""
    gateway = gateway_of(request)
    said = body.model_dump(exclude_none=True)

    async def seen() -> dict[str, Any] | None:
        row = await _row(gateway, name)
        return row if row is not None and all(row[key] == value for key, value in said.items()) else None

    return Queue(**await gateway.until(partial(gateway.client.set_queue, name, **said), seen))


@router.delete("/{name:queue}", response_model=Removed, responses=documented(404))
async def remove(name: QueueName, request: Request) -> Removed:
    """What waits in it is cancelled."""
    gateway = gateway_of(request)
    if await _row(gateway, name) is None:
        raise _unknown(name)

    async def seen() -> bool | None:
        return True if await _row(gateway, name) is None else None

    await gateway.until(partial(gateway.client.remove_queue, name), seen)
    return Removed(removed=name)


async def _row(gateway: Gateway, name: str) -> dict[str, Any] | None:
    return next((row for row in await gateway.ask("queues") if row["name"] == name), None)


def _unknown(name: str) -> Refusal:
    return Refusal(404, "unknown", f"there is no queue {name!r}")


def _value(value: Any) -> Any:
    """Of a message; what is too large, or has no form in JSON, is told in its place: the others must arrive."""
    try:
        return to_json(value)
    except TooLarge:
        return {"$error": "larger than what is given as JSON; nack it, and take it with plesio's Python client"}
    except UserError as error:
        return {"$error": f"{error}; nack it, and take it with plesio's Python client"}


async def _settle(gateway: Gateway, id: str, ok: bool, delay_s: float) -> None:
    """A request that got no answer may be repeated: it then waits for the same to be durable."""
    message = gateway.held.get(id)
    if message is None:
        raise Refusal(
            404, "unknown", f"message {id} is not held: its lease is over, it is settled, or it was not taken here"
        )
    if not message.settled:
        await gateway.call(message.ack if ok else partial(message.nack, delay_s))
    await gateway.call(message.wait_settled, PATIENCE_S)
    gateway.held.drop(id)
