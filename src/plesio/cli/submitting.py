"""What `plesio submit` does, and how results look as JSON."""

from __future__ import annotations

from typing import Any

import msgspec
import typer

from plesio.cli.asking import print_json
from plesio.cli.options import say
from plesio.errors import TaskFailed
from plesio.tasks import Client
from plesio.tasks.naming import from_anywhere

DURABLE_S = 30.0


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """See Client.submit."""

    fn: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    queue: str
    priority: int
    key: str
    delay_s: float
    timeout_s: float
    retries: int
    requires: dict[str, float]


def submit(client: Client, call: Call, wait: bool, as_json: bool) -> bool:
    """Prints its name, or its result; False when it failed. Raises UserError, TaskFailed, TimeoutError."""
    future = client.submit(
        from_anywhere(call.fn), *call.args, kwargs=call.kwargs, queue=call.queue, priority=call.priority, key=call.key,
        delay_s=call.delay_s, timeout_s=call.timeout_s, retries=call.retries, requires=call.requires or None,
    )  # fmt: skip
    client.flush(DURABLE_S)
    if not wait:
        if future.done() and (error := future.exception()) is not None:
            raise error
        _tell({"task": future.name}, future.name, as_json)
        return True
    try:
        result = plain(future.result())
    except TaskFailed as error:
        if not as_json:
            raise
        print_json({"task": future.name, "state": "failed", "kind": error.kind, "message": error.message})
        return False
    except KeyboardInterrupt:
        say(
            f"task {future.name} goes on; `plesio tasks show {future.name}` looks for it, `plesio tasks cancel` ends it"
        )
        raise typer.Exit(130) from None
    words = result if isinstance(result, str) else msgspec.json.encode(result).decode()
    _tell({"task": future.name, "state": "done", "result": result}, words, as_json)
    return True


def _tell(record: dict[str, Any], words: str, as_json: bool) -> None:
    if as_json:
        print_json(record)
    else:
        print(words, flush=True)


def plain(value: Any) -> Any:
    """What JSON can say of a value: the rest as its repr."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value, enc_hook=repr))
    except (TypeError, ValueError, RecursionError):
        return repr(value)
