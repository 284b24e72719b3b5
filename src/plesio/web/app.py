"""The app: its routes, its errors, and the guard in front. `build` is all that a server or a test needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI

from plesio.tasks import Client
from plesio.web import events, pool, problems, queues, runs, tasks
from plesio.web.gateway import Gateway
from plesio.web.guard import Guard

ABOUT = "A pool of plesio: tasks, queues, workers. Every path but /health wants `Authorization: Bearer TOKEN`."


def build(client: Client, token: str, folder: Path) -> Guard:
    """Serves what `client` reaches; closes it at the end. folder: the pool's."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        gateway = app.state.gateway = Gateway(client)
        yield
        gateway.close()

    app = FastAPI(
        title="plesio",
        version=version("plesio"),
        description=ABOUT,
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.folder = folder
    problems.install(app)
    app.state.routes = []
    for router in (tasks.router, queues.router, runs.router, pool.router, events.router):
        app.include_router(router)
        app.state.routes += router.routes
    return Guard(app, token, lambda peer, reason: app.state.gateway.refused(peer, reason))
