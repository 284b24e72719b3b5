"""Routes of training runs on the pool: look, and stop. They are started where their code is: `plesio run --on`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request

from plesio.errors import UserError
from plesio.runs import requests
from plesio.tasks import Client
from plesio.web.models import Run, RunName, Runs
from plesio.web.problems import Refusal, documented
from plesio.web.tasks import gateway_of

router = APIRouter(prefix="/v1/runs", tags=["runs"])


@router.get("", response_model=Runs, responses=documented())
async def ls(request: Request) -> Runs:
    """All of them, the newest last."""
    gateway = gateway_of(request)
    return Runs(runs=[Run.of(row) for row in await gateway.call(requests.rows, gateway.client)])


@router.get("/{name}", response_model=Run, responses=documented(404))
async def show(name: RunName, request: Request) -> Run:
    """How far it is."""
    return Run.of(await _of(request, 404, "unknown", requests.show, name))


@router.post("/{name}/stop", response_model=Run, responses=documented(404, 409))
async def stop(name: RunName, request: Request) -> Run:
    """Its learners leave with their work counted, what is done is committed, and `plesio runs resume` goes on with it."""
    await _of(request, 404, "unknown", requests.show, name)
    await _of(request, 409, "over", requests.stop, name)
    return Run.of(await _of(request, 404, "unknown", requests.show, name))


async def _of(request: Request, status: int, kind: str, ask: Callable[[Client, str], Any], name: str) -> Any:
    def asked(client: Client) -> Any:
        try:
            return ask(client, name)
        except UserError as error:
            raise Refusal(status, kind, str(error)) from error

    gateway = gateway_of(request)
    return await gateway.call(asked, gateway.client)
