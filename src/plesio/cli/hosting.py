"""What `plesio up` and `plesio worker` do: a pool's host, and a node, in the foreground."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import json
import os
import re
import secrets
import socket
import sys
from pathlib import Path
from typing import Literal

from plesio import registry
from plesio.cli.options import read_address, read_amounts, say
from plesio.errors import PortInUse, UserError
from plesio.runtime.hostsettings import (
    HostSettings,
    Running,
    announce,
    bind_local,
    locked,
    near,
    running,
    started,
    usable_cores,
    withdraw,
)
from plesio.runtime.node import Node, NodeSettings
from plesio.runtime.poolhost import Host
from plesio.wire import tokens
from plesio.wire.tls import load

USUAL = ("127.0.0.1", 7710)
BACKLOG = 128
HTTP_TOKEN = "http-token"  # in the pool's folder


def serve(
    listen: str | None,
    folder: Path,
    workers: int | None,
    token_file: Path | None,
    tls: str | None,
    sync: Literal["normal", "full"],
    memory_mb: int,
    tags: list[str] | None,
    order: str,
    placement: str,
    http: str | None,
    as_json: bool,
) -> None:
    """A pool, until it is told to end. Raises UserError."""
    registry.check(registry.ORDERS, "order", order)
    registry.check(registry.PLACEMENTS, "placement", placement)
    where = None if listen is None else read_address(listen, "--listen")
    amounts = tuple(sorted(read_amounts(tags, "--tag").items()))
    http_where = None if http is None else _read_http(http)
    files = load(tls, serves=True).text if tls else ""
    slots = usable_cores() if workers is None else workers
    shown, folder = folder, folder.absolute()
    token_path = (token_file or folder / "token").absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            _must_be_free(folder, shown)
            token = tokens.read_or_make(token_path)
            http_token = "" if http_where is None else tokens.read_or_make(folder / HTTP_TOKEN)
            web = None if http_where is None else _bound(http_where, "--http")
            listener = _bound(where)
            host, port = listener.getsockname()[:2]
            told = Running(
                host=near(host), port=port, pid=os.getpid(), started=started(os.getpid()), embedded=False,
                token_file=str(token_path), tls=files, listens=host,
            )  # fmt: skip
            local = bind_local(folder)
            announce(folder, told)
    except OSError as error:
        raise UserError(f"cannot write to {shown}: {error.strerror}; choose another --dir") from error
    _find_modules_here()
    settings = HostSettings(
        folder=str(folder), token=token, listener=listener.detach(), slots=slots,
        local=-1 if local is None else local.detach(), sync=sync, tls=files, tags=amounts,
        memory_bytes=memory_mb << 20, order=order, placement=placement, runs=True, http_token=http_token,
        http=-1 if web is None else web.fileno(),
    )  # fmt: skip
    say(f"pool in {shown} listens on {host}:{port}, {slots} slots here; logs in {shown / 'logs'}; Ctrl-C ends it")
    say(_invitation(host, port, token_path, bool(files)))
    record = {"host": host, "port": port, "token_file": str(token_path), "pid": os.getpid()}
    if web is not None:
        record |= {"http": _url(web, bool(files)), "http_token_file": str(folder / HTTP_TOKEN)}
        say(f"HTTP at {record['http']}, with the token in {shown / HTTP_TOKEN}")
        web.detach()
    if as_json:
        print(json.dumps(record), flush=True)
    try:
        Host(settings, say).run()
    finally:
        withdraw(folder)
    say(f"the pool has ended; `plesio up --dir {shown}` goes on with what was submitted")


def _must_be_free(folder: Path, shown: Path) -> None:
    found = running(folder)
    if found is not None:
        mend = "it ends with its last client" if found.embedded else f"end it first (`kill {found.pid}`)"
        raise UserError(
            f"a pool runs in {shown} already (process {found.pid}, {found.host}:{found.port}); {mend}, or choose "
            "another --dir"
        )


def _read_http(text: str) -> tuple[str, int]:
    """PORT alone is this machine's only. Raises UserError, also when what serves is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn")):
        raise UserError("--http needs fastapi and uvicorn; run `pip install 'plesio[http]'`")
    return read_address(text if ":" in text else f"127.0.0.1:{text}", "--http")


def _url(listener: socket.socket, with_tls: bool) -> str:
    host, port = listener.getsockname()[:2]
    return f"{'https' if with_tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _bound(where: tuple[str, int] | None, option: str = "--listen") -> socket.socket:
    """Nobody said where: the usual port, or any."""
    host, port = where or USUAL
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if where is None and port:
            return _bound((host, 0))
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"{host}:{port} is already in use; choose another with {option} HOST:PORT") from error
        why = str(error.strerror).partition(" (")[0]
        raise UserError(f"cannot listen on {host}:{port}: {why}; choose another with {option} HOST:PORT") from error


def _invitation(host: str, port: int, token_path: Path, with_tls: bool) -> str:
    if host in ("127.0.0.1", "::1"):
        return f"only this machine reaches {host}; with --listen 0.0.0.0:{port} others may join"
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104  it is compared, not bound
    tls = " --tls CERT,KEY,CA" if with_tls else ""
    return f"others join with: plesio worker --join {name}:{port} --token-file token{tls}   (a copy of {token_path})"


def join(
    address: str,
    token_file: Path,
    slots: int | None,
    tags: list[str] | None,
    name: str | None,
    memory_mb: int,
    tls: str | None,
    modules: list[str],
    runs: Path,
) -> None:
    """A node, until it is told to leave. Raises UserError, AccessRefused."""
    host, port = read_address(address, "--join")
    amounts = read_amounts(tags, "--tag")
    name = name or re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) + "-" + secrets.token_hex(2)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}", name) or name == "here":
        raise UserError(f"--name {name!r} must be letters, digits, dots and dashes, and not 'here'")
    token, files = tokens.read(token_file), load(tls) if tls else None
    _find_modules_here()
    for module in modules:
        _import(module)
    folder = runs / f"joined-{name}" / "logs"
    settings = NodeSettings(
        host=host, port=port, token=token, name=name, slots=slots or usable_cores(), folder=str(folder.absolute()),
        tags=tuple(sorted(amounts.items())), memory_bytes=memory_mb << 20,
    )  # fmt: skip
    say(f"worker {name}; logs in {folder}; Ctrl-C makes it leave")
    Node(settings, files, tell=say).run()
    say("left the pool")


def _find_modules_here() -> None:
    """As `python -m` does, and a console script does not."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:  # an import runs anybody's code
        mend = "install it here, or start the worker in the folder where it is"
        raise UserError(
            f"--import {module}: it cannot be imported ({type(error).__name__}: {error}); {mend}"
        ) from error
