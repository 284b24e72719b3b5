"""What happens, as server-sent events. Each listener reads the journal for itself, so that nothing is kept for a slow one.

An event's id is its batch in the journal and its place there, so that `Last-Event-ID` goes on where a listener was, as
long as the journal still has it: the event `missed` says when it has not.
"""

from __future__ import annotations

import json
import time
from asyncio import sleep
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse

from plesio.core.pool import facts as f
from plesio.core.pool.messages import CLIENT_OWNS
from plesio.core.pool.recipe import name_of
from plesio.core.pool.state import Durable
from plesio.runtime.journal import POOL, Journal
from plesio.stores.sqlite import SqliteStore
from plesio.web.gateway import Gateway
from plesio.web.problems import AGAIN_S, Refusal, documented
from plesio.web.tasks import gateway_of

router = APIRouter(prefix="/v1/events", tags=["events"])
MOST_LISTENERS = 16
LOOK_S, COUNTS_S, ALIVE_S = 0.1, 1.0, 15.0
BATCHES = 16  # read at a time
MESSAGE_LENGTH = 2000  # of what a task raised

Event = tuple[str, dict[str, Any]]  # (event, data)
ABOUT = (
    "`task`: one ended (id, state: done, dead or cancelled; kind and message when it failed). "
    "`worker`: a slot joined or is gone. `counts`: when they changed, once a second at most; the first event is one. "
    "`missed`: what came before is not kept any more."
)


class Stream(StreamingResponse):
    """Server-sent events."""

    media_type = "text/event-stream"


@router.get("", response_class=Stream, responses=documented() | {200: {"description": ABOUT}})
async def events(
    request: Request, last_event_id: Annotated[str | None, Header(pattern=r"^[0-9]{1,15}-[0-9]{1,9}$")] = None
) -> Stream:
    """What happens from now on, or from `Last-Event-ID` on."""
    gateway = gateway_of(request)
    if gateway.listeners >= MOST_LISTENERS:
        raise Refusal(429, "busy", f"{MOST_LISTENERS} listen already", retry_s=AGAIN_S)
    since = tuple(map(int, last_event_id.split("-"))) if last_event_id else None
    return Stream(_listen(gateway, request.app.state.folder, since), headers={"Cache-Control": "no-store"})


async def _listen(gateway: Gateway, folder: Path, since: tuple[int, ...] | None) -> AsyncIterator[str]:
    """For ever; the one who listens ends it."""
    store = SqliteStore(folder / "journal.db")
    gateway.listeners += 1
    try:
        await store.open()
        async for text in _follow(gateway, store, since):
            yield text
    finally:
        gateway.listeners -= 1
        await store.close()


async def _follow(gateway: Gateway, store: SqliteStore, since: tuple[int, ...] | None) -> AsyncIterator[str]:
    journal: Journal[Any, Durable] = Journal(store, 0, POOL)
    next_seq, skip = since or (await store.last_seq() + 1, 0)
    if next_seq > await store.last_seq() + 1:
        yield _text("missed", {"why": "the journal is another one"})
        next_seq, skip = await store.last_seq() + 1, 0
    told: dict[str, Any] = {}
    id = "" if since else f"{next_seq}-0"
    counted_s = said_s = 0.0
    while True:
        now_s = time.monotonic()
        if now_s - counted_s > COUNTS_S:
            counted_s = now_s
            with suppress(Refusal):  # the pool is away
                if (counts := await gateway.ask("counts")) != told:
                    told, said_s = counts, now_s
                    yield _text("counts", counts, id)
                    id = ""
        batches = await journal.since(next_seq - 1, BATCHES)
        if batches and batches[0][0] > next_seq:
            yield _text("missed", {"why": "the journal does not keep it any more"})
        for seq, unix_s, facts in batches:
            found = [event for fact in facts for event in _events(fact, unix_s)]
            known = skip if seq == next_seq else 0
            next_seq, skip = seq + 1, 0
            if len(found) > known:
                said_s = now_s
                yield "".join(_text(*event, f"{seq}-{n}") for n, event in enumerate(found, 1) if n > known)
        if not batches:
            await sleep(LOOK_S)
        if now_s - said_s > ALIVE_S:
            said_s = now_s
            yield ": nothing new\n\n"


def _text(event: str, data: dict[str, Any], id: str = "") -> str:
    return f"event: {event}\n{f'id: {id}' + chr(10) if id else ''}data: {json.dumps(data)}\n\n"


def _events(fact: Any, unix_s: float) -> Iterator[Event]:
    """What a listener is told of a fact; of messages nothing."""
    if isinstance(fact, f.TasksDone) and not fact.slot.startswith(CLIENT_OWNS):
        for id in fact.ids:
            yield "task", {"id": name_of(id), "state": "done", "at": unix_s}
    elif isinstance(fact, f.TaskDied):
        said = {"kind": fact.kind, "message": fact.message[-MESSAGE_LENGTH:]}
        yield "task", {"id": name_of(fact.id), "state": "dead", "at": unix_s, **said}
    elif isinstance(fact, f.TasksCancelled):
        for id in fact.ids:
            yield "task", {"id": name_of(id), "state": "cancelled", "at": unix_s}
    elif isinstance(fact, f.SlotJoined):
        yield "worker", {"slot": fact.slot, "node": fact.node, "state": "joined", "at": unix_s}
    elif isinstance(fact, f.SlotEnded):
        yield "worker", {"slot": fact.slot, "state": "gone", "reason": fact.reason, "at": unix_s}
