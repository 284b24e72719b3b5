"""What is answered when a request is not carried out: one shape for all of it, a status each, a word and a sentence."""

from __future__ import annotations

import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

AGAIN_S = 1.0  # a pool that was away may be there again then
WORDS = {
    400: "The body is not JSON.",
    401: "The token is missing or wrong.",
    404: "It is not known (any more).",
    405: "Nothing here is done by this method.",
    408: "The body did not come in time.",
    409: "The task failed or was cancelled: `kind` and `message` say how.",
    413: "Too large for JSON over HTTP: the message says what to do.",
    422: "Something is not as it must be: `where` says what.",
    429: "Too much at once, or a full queue: try again after `Retry-After` seconds.",
    503: "The pool does not answer just now: try again after `Retry-After` seconds.",
}
ALWAYS = (400, 401, 408, 413, 422, 429, 503)


class Problem(BaseModel):
    """Why it was not done. kind: a word for programs; message: a sentence for people; where: the field that is wrong."""

    kind: str
    message: str
    where: str = Field(default="", description="For example `body.priority`.")


class Refusal(Exception):
    """Raised in a route: the request ends with this status."""

    def __init__(self, status: int, kind: str, message: str, *, where: str = "", retry_s: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.problem = Problem(kind=kind, message=message, where=where)
        self.headers = {"Retry-After": str(math.ceil(retry_s))} if retry_s > 0 else {}

    def answer(self) -> JSONResponse:
        """As it is sent."""
        return JSONResponse(self.problem.model_dump(), self.status, self.headers)


def away(message: str = "the pool does not answer; it may be starting again") -> Refusal:
    """Nobody knows whether what was asked for is done: whoever asks again should say the same key."""
    return Refusal(503, "away", message, retry_s=AGAIN_S)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route: all that may be answered instead of what was asked for."""
    return {status: {"model": Problem, "description": WORDS[status]} for status in sorted({*ALWAYS, *statuses})}


def install(app: FastAPI) -> None:
    """Every error of the framework's and ours has the one shape."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return error.answer()


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    if where == "body" and "json" not in request.headers.get("content-type", ""):
        return Refusal(
            422, "invalid", "the body is not said to be JSON: send Content-Type: application/json", where=where
        ).answer()
    if first["type"] == "json_invalid":
        return Refusal(400, "not json", f"the body is not JSON: {first['msg']}", where="body").answer()
    return Refusal(422, "invalid", f"{where}: {first['msg']}", where=where).answer()


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    words = WORDS.get(error.status_code, "It cannot be done.")
    where = "body" if error.status_code == 400 else ""
    answer = Refusal(error.status_code, str(error.detail).lower(), f"{words} See /openapi.json.", where=where).answer()
    answer.headers.update(error.headers or {})
    if error.status_code == 405:
        answer.headers["Allow"] = ", ".join(sorted(_methods(request)))
    return answer


def _methods(request: Request) -> set[str]:
    """Of all routes of this path: the framework names those of the first."""
    routes: list[APIRoute] = request.app.state.routes
    return {
        method for route in routes if route.matches(request.scope)[0] is Match.PARTIAL for method in route.methods or ()
    }
