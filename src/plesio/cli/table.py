"""The live table on stderr: each learner, the round, the loss. Plain lines where there is no terminal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from plesio.core.spec import RunSpec
from plesio.wire.messages import Status

PLAIN_EVERY_S = 10.0


class LiveTable:
    """Shows Status messages. Owned by the command."""

    def __init__(self, spec: RunSpec, run_dir: Path) -> None:
        self.spec = spec
        self.run_dir = run_dir
        self.console = Console(stderr=True)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)
        self.began_s = time.monotonic()
        self.printed_s = 0.0

    def __enter__(self) -> LiveTable:
        self.console.print(f"plesio: run {self.spec.run} with {self.spec.learners} learners, in {self.run_dir}")
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def say(self, words: str) -> None:
        """A line that stays."""
        self.console.print(f"[{time.monotonic() - self.began_s:6.1f} s] {words}", markup=False, highlight=False)

    def show(self, status: Status) -> None:
        """The newest state."""
        if self.console.is_terminal:
            self.live.update(Group(self._table(status), self._footer(status)))
        elif time.monotonic() - self.printed_s >= PLAIN_EVERY_S:
            self.printed_s = time.monotonic()
            self.say(self._footer(status).plain)

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
        return Text(
            f"round {number} ({status.strategy})   effective participants {status.effective} of {status.live}{solo}   "
            f"{status.tokens}{target} tokens committed{loss}   faults {status.faults}"
        )


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
