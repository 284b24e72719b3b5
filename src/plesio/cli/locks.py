"""`plesio locks`: who holds what, and who waits for it. Options only."""

from __future__ import annotations

from typing import Any

from plesio.cli.options import POOL, AsJson, Folder, Tls, To, TokenFile

LOCK = ("kind", "name", "value", "holders", "waiting")


def locks(
    to: To = None, token_file: TokenFile = None, tls: Tls = None, folder: Folder = POOL, as_json: AsJson = False
) -> None:
    """Who holds locks and semaphores, and who waits, in order; counters, events and barriers. The first 200.

    Example: plesio locks --json
    """
    from plesio.cli import asking

    with asking.attached(to, token_file, tls, folder) as client:
        rows = client.ask("locks")
    if not as_json:
        rows = [row | {side: [_words(x) for x in row[side]] for side in ("holders", "waiting")} for row in rows]
    asking.show_rows("locks", rows, LOCK, as_json)


def _words(one: dict[str, Any]) -> str:
    token = f" token {one['token']}" if "token" in one else ""
    reads = " shared" if one["shared"] else ""
    return f"[client {one['client']}, {one['owner']}{token}{reads}]"
