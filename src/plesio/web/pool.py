"""Routes of the pool itself: its workers, its counts, and whether this process is there."""

from __future__ import annotations

from fastapi import APIRouter, Request

from plesio.web.models import Counts, Health, Worker, Workers
from plesio.web.problems import documented
from plesio.web.tasks import gateway_of

router = APIRouter(tags=["pool"])


@router.get("/v1/workers", response_model=Workers, responses=documented())
async def workers(request: Request) -> Workers:
    """Slots, on all machines."""
    return Workers(workers=[Worker(**row) for row in await gateway_of(request).ask("workers")])


@router.get("/v1/counts", response_model=Counts, responses=documented())
async def counts(request: Request) -> Counts:
    """How many tasks wait, run, and have ended how."""
    return Counts(**await gateway_of(request).ask("counts"))


@router.get("/health", response_model=Health)
async def health() -> Health:
    """This process is there, whether the pool is or not. Needs no token."""
    return Health(status="ok")
