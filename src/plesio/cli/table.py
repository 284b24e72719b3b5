"""The live table on stderr: each learner, the round, the loss. Plain lines where there is no terminal."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from plesio.wire.messages import LearnerStatus, Status

PLAIN_EVERY_S = 10.0


class LiveTable:
    """Shows Status messages. Owned by the command."""

    def __init__(self, title: str, *, stderr: bool = True) -> None:
        self.title = title
        self.console = Console(stderr=stderr)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)
        self.began_s = time.monotonic()
        self.printed_s = 0.0

    def __enter__(self) -> LiveTable:
        self.console.print(f"plesio: {self.title}", markup=False, highlight=False, soft_wrap=True)
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def say(self, words: str) -> None:
        """A line that stays."""
        self.console.print(
            f"[{time.monotonic() - self.began_s:6.1f} s] {words}", markup=False, highlight=False, soft_wrap=True
        )

    def show(self, status: Status) -> None:
        """The newest state."""
        if self.console.is_terminal:
            self.live.update(Group(self._table(status), self._footer(status)))
        elif time.monotonic() - self.printed_s >= PLAIN_EVERY_S:
            self.printed_s = time.monotonic()
            self.say(self._footer(status).plain)

    def keep(self, status: Status) -> None:
        """The table as it is now, to stay."""
        if self.console.is_terminal:
            self.console.print(Group(self._table(status), self._footer(status)))
            return
        for words in (*map(_plain, status.learners), self._footer(status).plain):
            self.console.print(words, markup=False, highlight=False, soft_wrap=True)

    def _table(self, status: Status) -> Table:
        table = Table(
            "learner", "state", "gen", "tokens/s", "tokens", "loss", "behind", "last push", "sent", "received"
        )
        for x in status.learners:
            table.add_row(
                x.name,
                x.state,
                str(x.generation),
                f"{x.tokens_per_s:.0f}",
                f"{x.tokens}",
                f"{x.loss:.3f}",
                str(x.staleness),
                f"{x.last_push_s:.0f} s ago",
                _bytes(x.up_bytes),
                _bytes(x.down_bytes),
            )
        return table

    def _footer(self, status: Status) -> Text:
        target = f" of {status.target}" if status.target else ""
        number = status.version.number if status.version else 0
        solo = "  SOLO" if status.effective == 1 and status.live == 1 else ""
        loss = f"   held-out loss {status.losses[-1][1]:.3f}" if status.losses else ""
        ended = f"   finished: {status.finished}" if status.finished else ""
        return Text(
            f"round {number} ({status.strategy})   effective participants {status.effective} of {status.live}{solo}   "
            f"{status.tokens}{target} tokens committed{loss}   faults {status.faults}{ended}"
        )


def _plain(x: LearnerStatus) -> str:
    return (
        f"{x.name}: {x.state}, generation {x.generation}, {x.tokens_per_s:.0f} tokens/s, {x.tokens} tokens, "
        f"loss {x.loss:.3f}, {x.staleness} behind, last push {x.last_push_s:.0f} s ago, "
        f"sent {_bytes(x.up_bytes)}, received {_bytes(x.down_bytes)}"
    )


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
