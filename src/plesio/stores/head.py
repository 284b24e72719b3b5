"""Who leads a journal and how far it is: the fencing rules, pure, shared by every store.

Knows no storage: a store reads its `Head`, asks it, and writes, all in one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from plesio.errors import Fenced, InternalError


@dataclass(frozen=True)
class Head:
    """Epoch 0 means that nobody was ever elected; sequence number 0 is before the first blob."""

    epoch: int = 0
    holder: str = ""
    expires_s: float = 0.0
    last_seq: int = 0
    snapshot_seq: int = 0

    def elected(self, holder: str, ttl_s: float, now_s: float) -> Head:
        """The head after `holder` took leadership. Raises Fenced while another's lease runs."""
        if ttl_s > 0 and holder != self.holder and now_s < self.expires_s:
            left_s = self.expires_s - now_s
            raise Fenced(f"{self.holder!r} leads for another {left_s:.1f} s; {holder!r} may stand after that")
        return replace(self, epoch=self.epoch + 1, holder=holder, expires_s=now_s + ttl_s)

    def check_append(self, epoch: int, expected_seq: int) -> None:
        """Raises Fenced unless `epoch` leads and `expected_seq` is the last."""
        self._check_leads(epoch)
        if expected_seq != self.last_seq:
            raise Fenced(
                f"the journal's last blob is {self.last_seq}, the writer expected {expected_seq}: someone "
                "else wrote, or an earlier append did land; read the journal again before writing"
            )

    def check_snapshot(self, epoch: int, seq: int) -> None:
        """Raises Fenced unless `epoch` leads, InternalError for a state that cannot be as of `seq`."""
        self._check_leads(epoch)
        if not self.snapshot_seq <= seq <= self.last_seq:
            raise InternalError(
                f"a snapshot as of {seq} lies outside {self.snapshot_seq}..{self.last_seq}, "
                "from the previous snapshot to the last blob; please report it"
            )

    def _check_leads(self, epoch: int) -> None:
        if epoch != self.epoch or epoch == 0:
            leader = f"{self.holder!r} leads with epoch {self.epoch}" if self.epoch else "nobody was elected"
            raise Fenced(f"the write of epoch {epoch} was refused: {leader}; elect again to lead")


def last_gone(seq: int, history_from: int | None) -> int:
    """The last blob that a snapshot as of `seq` deletes."""
    return seq if history_from is None else min(seq, history_from - 1)
