"""The process behind `plesio up --http`: started, and started again, by the pool's host (runtime/webprocess.py)."""

from __future__ import annotations

import socket
import ssl
import sys
from pathlib import Path

import msgspec
import uvicorn

from plesio.errors import PlesioError
from plesio.runtime.webprocess import WebSettings
from plesio.tasks.embedded import attach
from plesio.web.app import build
from plesio.web.door import IDLE_S, Door

GRACE_S = 2  # for requests under way when it is told to end
CONNECTIONS = 1024
SLOW_MS = 30_000  # a peer that takes nothing for so long is gone


def serve(settings: WebSettings) -> None:
    """Until SIGTERM. Raises UserError, WireError when there is no pool."""
    listener = socket.socket(fileno=settings.listener)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SLOW_MS)  # its connections inherit it
    client = attach(settings.folder, patient=False)
    cert, key = (settings.tls.split(",") + [""])[:2] if settings.tls else (None, None)
    config = uvicorn.Config(
        build(client, settings.token, Path(settings.folder)), http=Door, ws="none", access_log=False, log_level="error",
        server_header=False, proxy_headers=False, timeout_keep_alive=IDLE_S, limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE_S, ssl_certfile=cert, ssl_keyfile=key,
    )  # fmt: skip
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    uvicorn.Server(config).run(sockets=[listener])


def main() -> None:
    """Its settings come as one line of JSON on stdin: they hold the token."""
    try:
        serve(msgspec.json.decode(sys.stdin.buffer.readline(), type=WebSettings))
    except PlesioError as error:
        print(f"http: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
