"""Routes of tasks: submit, look, wait for the result, cancel."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from plesio.errors import PlesioError, TaskFailed, UserError
from plesio.tasks import Future
from plesio.web.gateway import Gateway, refusal_of
from plesio.web.guard import SIZE
from plesio.web.models import Call, Error, NotYet, Result, State, Submitted, Task, TaskId, Tasks, WaitS
from plesio.web.problems import Refusal, documented
from plesio.web.values import JSON_BYTES, TooLarge, from_json, to_json

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])
LISTED = 200  # as many as the pool tells
OVER = frozenset({"done", "dead", "cancelled"})


def gateway_of(request: Request) -> Gateway:
    """Of the app."""
    gateway: Gateway = request.app.state.gateway
    return gateway


@router.post("", status_code=201, response_model=Submitted, responses=documented())
async def submit(call: Call, request: Request) -> JSONResponse:
    """Submit a call. It is durable when this answers; to try again safely, say a `key`."""
    gateway = gateway_of(request)
    options = call.model_dump(exclude={"fn", "args", "kwargs", "wait_s"})
    options["requires"] = call.requires or None
    try:
        args, kwargs = from_json(call.args), from_json(call.kwargs)
    except UserError as error:
        raise refusal_of(error) from error
    if not isinstance(kwargs, dict):
        raise Refusal(422, "invalid", "kwargs are named arguments", where="body.kwargs")
    submit = partial(gateway.client.submit, call.fn, *args, kwargs=kwargs, block=False, **options)
    future = await gateway.submit(request.scope[SIZE], lambda durable: submit(on_durable=durable))
    watched = gateway.watch(future)
    said: dict[str, Any] = {"id": future.name, "state": "ready"}
    if await gateway.wait(watched, call.wait_s):
        said |= await gateway.call(_outcome, future)
    return JSONResponse(said, 201)


@router.get("", response_model=Tasks, responses=documented())
async def ls(
    request: Request,
    state: State | None = None,
    limit: Annotated[int, Query(ge=1, le=LISTED)] = LISTED,
) -> Tasks:
    """The newest tasks and messages, of a state or of all."""
    rows = await gateway_of(request).ask("tasks", state or "")
    return Tasks(tasks=[Task.of(row) for row in rows[:limit]])


@router.get("/{id}", response_model=Task, responses=documented(404))
async def show(id: TaskId, request: Request) -> Task:
    """Where a task is, whoever submitted it."""
    return Task.of(await gateway_of(request).row(id))


@router.get("/{id}/result", response_model=Result, responses=documented(404, 409) | {202: {"model": NotYet}})
async def result(id: TaskId, request: Request, wait_s: Annotated[WaitS, Query()] = 0.0) -> JSONResponse:
    """What the function returned, whoever submitted the task; 202 when it has not ended within `wait_s`: ask again."""
    gateway = gateway_of(request)
    state, future = await gateway.find(id, wait_s)
    if future is None:
        return JSONResponse({"id": id, "state": state}, 202)
    return await gateway.call(_result, future)


@router.post("/{id}/cancel", response_model=Task, responses=documented(404))
async def cancel(id: TaskId, request: Request) -> Task:
    """Whether it waits or runs; one that has ended stays as it is."""
    gateway = gateway_of(request)
    await gateway.row(id)

    async def seen() -> dict[str, Any] | None:
        row = await gateway.row(id)
        return row if row["state"] in OVER else None

    return Task.of(await gateway.until(partial(gateway.client.cancel, [id]), seen))


def _result(future: Future) -> JSONResponse:
    """Of one that has ended. Raises Refusal."""
    try:
        value = to_json(future.result(0))
        return JSONResponse({"id": future.name, "state": "done", "result": value})
    except TaskFailed as error:
        raise Refusal(409, error.kind, error.message) from error
    except TooLarge as error:
        mend = "let the function write it to a file and return the path, or take it with plesio's Python client"
        said = f"the result of {future.name} is larger than the {JSON_BYTES >> 20} MiB that are given as JSON; {mend}"
        raise Refusal(413, "too large", said) from error
    except UserError as error:
        raise Refusal(
            413, "not json", f"the result of {future.name}: {error}; let the function return another"
        ) from error
    except PlesioError as error:
        raise Refusal(409, "gone", str(error)) from error


def _outcome(future: Future) -> dict[str, Any]:
    """Of one that has ended. A result that JSON does not hold is left out: /result says why."""
    error = future.exception(0)
    if isinstance(error, TaskFailed):
        state = "cancelled" if future.cancelled() else "dead"
        return {"state": state, "error": Error(kind=error.kind, message=error.message).model_dump()}
    try:
        return {"state": "done", "result": to_json(future.result(0))}
    except PlesioError:
        return {"state": "done"}
