"""Messages: tasks that clients take out of queues themselves, and topics, whose subscriptions have a copy each. Pure.

A message is its taker's until it settles it, however long that takes; a taker that is gone gives back what it had.
"""

from __future__ import annotations

from plesio.core.pool import effects as e
from plesio.core.pool import facts as f
from plesio.core.pool import stimuli as s
from plesio.core.pool.book import Call, Lane
from plesio.core.pool.recipe import CLIENT_SHIFT, MAX_PRIORITY
from plesio.core.pool.schedule import may_begin, rank
from plesio.core.pool.state import Client
from plesio.core.pool.turn import Turn

MOST = 10_000  # messages given at once
GIVEN_BYTES = 16 << 20
GRACE_S = 2.0  # a taker that lost its connection has so long to come back
MAX_SUBSCRIPTIONS = 256
CLIENT_OWNS = "@"
RETRY_S = 1.0
REJECTED = "rejected"  # the kind of failure of a message that its taker gave back


def owner_of(client: int) -> str:
    """Who holds a message, in the book: no slot is named so."""
    return f"{CLIENT_OWNS}{client}"


def take(turn: Turn, stimulus: s.Take) -> None:
    """It gets them when there are some, after those who asked before."""
    if stimulus.session not in turn.volatile.online:
        return
    getters = turn.volatile.getters.setdefault(stimulus.queue, {})
    key = (stimulus.session, stimulus.number)
    if stimulus.count > 0:
        getters[key] = min(stimulus.count, MOST)
    elif getters.pop(key, None) is None:
        return
    if not getters:
        del turn.volatile.getters[stimulus.queue]


def lost(turn: Turn, session: str) -> None:
    """A client's connection ended: it wants nothing for now, and has a while to come back for what it holds."""
    for queue, getters in list(turn.volatile.getters.items()):
        for key in [key for key in getters if key[0] == session]:
            del getters[key]
        if not getters:
            del turn.volatile.getters[queue]
    client = turn.durable.clients.get(session)
    if client is not None and turn.book.leases.get(owner_of(client.number)):
        turn.volatile.gone_s[session] = turn.now_s


def back(turn: Turn, client: Client, holds: tuple[int, ...]) -> None:
    """It is connected again: what it was given and never got, others may have."""
    owner, got = owner_of(client.number), set(holds)
    missed = tuple(id for id in turn.book.leases.get(owner, ()) if id not in got)
    if missed:
        turn.emit(f.TasksReturned(owner, missed, "never arrived"))


def return_of_gone(turn: Turn) -> None:
    """Those who did not come back have nothing any more."""
    for session, since_s in list(turn.volatile.gone_s.items()):
        client = turn.durable.clients.get(session)
        if client is None or turn.now_s - since_s > GRACE_S:
            del turn.volatile.gone_s[session]
            if client is not None:
                owner = owner_of(client.number)
                held = tuple(turn.book.leases.get(owner, ()))
                if held:
                    turn.emit(f.TasksReturned(owner, held, "lost"))


def deal(turn: Turn) -> None:
    """Messages that may go, to those who want them."""
    for queue, getters in list(turn.volatile.getters.items()):
        while getters:
            (session, number), count = next(iter(getters.items()))
            calls = _next(turn, queue, count)
            if not calls:
                break
            del getters[session, number]
            owner = owner_of(turn.durable.clients[session].number)
            turn.emit(f.TasksLeased(owner, tuple([call.id for call in calls])))
            turn.order(
                e.Give(
                    session,
                    number,
                    tuple([call.id for call in calls]),
                    tuple([call.args for call in calls]),
                    tuple([call.tries for call in calls]),
                )
            )
        if not getters:
            turn.volatile.getters.pop(queue, None)


def _next(turn: Turn, queue: str, count: int) -> list[Call]:
    """The next ones of a queue, by priority and order; they leave their lanes."""
    calls: list[Call] = []
    lanes = [lane for lane in list(turn.book.lanes.values()) if lane.queue == queue and not lane.for_slots]
    size_bytes = 0
    while len(calls) < count and size_bytes < GIVEN_BYTES:
        lanes = [lane for lane in lanes if may_begin(turn, lane)]
        if not lanes:
            break
        lane = min(lanes, key=lambda lane: rank(turn, lane)) if len(lanes) > 1 else lanes[0]
        call = _taken(turn, lane)
        calls.append(call)
        size_bytes += len(call.args)
    return calls


def _taken(turn: Turn, lane: Lane) -> Call:
    call = lane.take()
    assert call is not None, "its head may begin"
    bucket = turn.volatile.buckets.get(lane.queue)
    if bucket is not None:
        bucket.tokens -= 1
    return call


def settle(turn: Turn, stimulus: s.Settle) -> None:
    """Of those that are the client's still; another one's are not its to settle."""
    client = turn.durable.clients.get(stimulus.session)
    if client is None:
        return
    turn.order(e.Settled(client.session, stimulus.number))
    owner = owner_of(client.number)
    held = turn.book.leases.get(owner, {})
    calls = [held[id] for id in dict.fromkeys(stimulus.ids) if id in held]
    if stimulus.ok and calls:
        turn.emit(f.TasksDone(owner, tuple(c.id for c in calls), (b"",) * len(calls), turn.now_s))
        turn.volatile.taken.extend(call.id for call in calls)
    elif calls:
        due_s = turn.now_s + stimulus.delay_s if 0 < stimulus.delay_s < 1e9 else 0.0
        for call in calls:
            turn.emit(f.AttemptFailed(call.id, owner, REJECTED, "", due_s))


def publish(turn: Turn, stimulus: s.Publish) -> None:
    """A copy for each subscription, as long as all of them have room: none may miss what is acknowledged."""
    client = turn.durable.clients.get(stimulus.session)
    count = len(stimulus.args)
    if client is None or count == 0:
        return
    session, first = client.session, stimulus.first
    put_off = turn.volatile.put_off.setdefault(session, {})
    put_off.pop(first, None)
    known = client.known_from(first, first + count) if first >= 1 else 0
    if known:
        turn.order(e.Accept(session, first, known, True))
    first, args = first + known, stimulus.args[known:]
    if not args:
        return
    bad = abs(stimulus.priority) > MAX_PRIORITY or not (first >= 1 and first + len(args) < 1 << CLIENT_SHIFT)
    if bad or client.has(first, first + len(args)) is not False:
        reason = f"a priority is between -{MAX_PRIORITY} and {MAX_PRIORITY}, and each number is of one message"
        turn.order(e.Decline(session, first, len(args), reason))
        return
    names = [queue_of(stimulus.topic, name) for name in turn.durable.topics.get(stimulus.topic, ())]
    fullest = min(names, key=lambda name: turn.book.room(name), default="")
    room = min(turn.book.room(fullest), len(args)) if fullest else len(args)
    if room:
        copies = tuple((name, turn.durable.copies + 1 + i * room) for i, name in enumerate(names))
        turn.emit(f.Published(client.number, first, stimulus.priority, args[:room], turn.now_s, copies))
        turn.order(e.Accept(session, first, room, True))
    if room < len(args):
        put_off[first + room] = (first + len(args), fullest)
        reason = f"subscription {fullest!r} is full"
        turn.order(e.Decline(session, first + room, len(args) - room, reason, RETRY_S))


def queue_of(topic: str, subscription: str) -> str:
    """The queue of a subscription."""
    return f"{topic}/{subscription}"


def subscribe(turn: Turn, stimulus: s.Subscribe) -> None:
    """On: what is published from now on. Off: what waits in it is given up."""
    known = turn.durable.topics.get(stimulus.topic, ())
    if not stimulus.topic or not stimulus.name or len(stimulus.topic) + len(stimulus.name) > 300:
        turn.refuse("a client", "a topic and a subscription have names, of 300 characters together")
    elif stimulus.on and stimulus.name not in known:
        if len(known) >= MAX_SUBSCRIPTIONS:
            turn.refuse("a client", f"a topic has {MAX_SUBSCRIPTIONS} subscriptions at most")
            return
        turn.emit(f.TopicSet(stimulus.topic, (*known, stimulus.name)))
    elif not stimulus.on and stimulus.name in known:
        turn.emit(f.TopicSet(stimulus.topic, tuple(name for name in known if name != stimulus.name)))
        queue = queue_of(stimulus.topic, stimulus.name)
        there = tuple(c.id for c in turn.book.calls.values() if c.recipe.queue == queue and not c.ended)
        if there:
            turn.emit(f.TasksCancelled(there, turn.now_s))
