"""Who may come in, and how much at once: a token, sizes, and how many requests are under way. Before any route is looked at.

A client that goes away ends its request; one that reads nothing for SLOW_S is dropped.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from plesio.web.problems import AGAIN_S, Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_BYTES = 8 << 20
ALL_BYTES = 64 << 20  # of all bodies together
MOST_REQUESTS = 256
BODY_S = 30.0  # for a body to come
SLOW_S = 30.0
OPEN = frozenset({"/health"})  # paths without a token
SIZE = "plesio.body_bytes"  # in the scope


class Guard:
    """In front of the app. refused: told (peer, reason) of a wrong or missing token, which it never holds."""

    def __init__(
        self, app: App, token: str, refused: Callable[[str, str], None], slow_s: float = SLOW_S, body_s: float = BODY_S
    ) -> None:
        self.app = app
        self.refused = refused
        self.slow_s = slow_s
        self.body_s = body_s
        self.requests = 0
        self.held_bytes = 0
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)  # of the app's own beginning and end
            return
        body = bytearray()
        self.requests += 1
        try:
            self._check(scope)
            if await self._read(scope, receive, body):
                scope[SIZE] = len(body)
                await self._run(scope, bytes(body), receive, send)
        except Refusal as refusal:
            await refusal.answer()(scope, receive, send)
        finally:
            self.requests -= 1
            self.held_bytes -= len(body)

    def _check(self, scope: Scope) -> None:
        if scope["path"] in OPEN:
            return
        scheme, _, token = _header(scope, b"authorization").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
            reason = "the token is wrong" if scheme else "there is no token"
            self.refused(scope["client"][0] if scope.get("client") else "somebody", f"HTTP: {reason}")
            refusal = Refusal(
                401,
                "unauthorized",
                f"{reason}; send `Authorization: Bearer TOKEN` with that of http-token, in the pool's folder",
            )
            refusal.headers["WWW-Authenticate"] = 'Bearer realm="plesio"'
            raise refusal
        if self.requests > MOST_REQUESTS:
            raise Refusal(429, "busy", f"more than {MOST_REQUESTS} requests are under way", retry_s=AGAIN_S)

    async def _read(self, scope: Scope, receive: Receive, body: bytearray) -> bool:
        """All of it, into `body`; False when the client left."""
        said = _header(scope, b"content-length")
        if said.isdigit() and int(said[:20]) > BODY_BYTES:
            raise _too_large()
        try:
            async with asyncio.timeout(self.body_s):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return False
                    self._take(message.get("body", b""), body)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Refusal(408, "slow", f"the body did not come within {self.body_s:g} s") from None
        return True

    def _take(self, chunk: bytes, body: bytearray) -> None:
        if len(body) + len(chunk) > BODY_BYTES:
            raise _too_large()
        if self.held_bytes + len(chunk) > ALL_BYTES:
            raise Refusal(429, "busy", "the requests under way hold too many bytes together", retry_s=AGAIN_S)
        body += chunk
        self.held_bytes += len(chunk)

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Until it is answered, or nobody listens."""
        work = asyncio.ensure_future(self.app(scope, _replay(body), self._bounded(send)))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            gone.cancel()
            ended = await asyncio.gather(work, gone, return_exceptions=True)
        if isinstance(ended[0], Exception):
            raise ended[0]

    def _bounded(self, send: Send) -> Send:
        async def bounded(message: Message) -> None:
            try:
                await asyncio.wait_for(send(message), self.slow_s)
            except TimeoutError:
                raise asyncio.CancelledError from None  # as if it had gone

        return bounded


def _replay(body: bytes) -> Receive:
    """What the app receives: the body, and then nothing; when the client leaves, the app is cancelled."""
    parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not parts:
            await asyncio.Event().wait()
        return parts.pop()

    return receive


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


def _too_large() -> Refusal:
    mend = "hand in less at a time, or write it to a file that the workers can read and hand in its path"
    return Refusal(413, "too large", f"a body has {BODY_BYTES >> 20} MiB at most; {mend}", where="body")
