"""Who was turned away, told without end but in bounded space: what comes again is counted, not repeated. Pure."""

from __future__ import annotations

import msgspec

from plesio.core import facts as f

WINDOW_S = 60.0  # what comes again within it is told once, at its end, with a count
KINDS = 64  # different refusals told in a window; the others are counted together
WHO_LENGTH, REASON_LENGTH = 80, 400
OTHERS = ("others", "turned away for other reasons too many to list")


class Refusals(msgspec.Struct):
    """Refusals since `began_s`. Owned by Volatile: a restart forgets counts that were not told yet."""

    began_s: float = 0.0
    counts: dict[tuple[str, str], int] = {}  # (who, reason) -> how often since it was told

    def note(self, now_s: float, who: str, reason: str) -> f.PeerRefused | None:
        """One more. The fact to journal when it is new; what is to be told later is counted."""
        if not self.counts:
            self.began_s = now_s
        key = (_plain(who, WHO_LENGTH), _plain(reason, REASON_LENGTH))
        if key not in self.counts and len(self.counts) < KINDS:
            self.counts[key] = 0
            return f.PeerRefused(*key)
        if key not in self.counts:
            key = OTHERS
        self.counts[key] = self.counts.get(key, 0) + 1
        return None

    def due_s(self) -> float | None:
        """When there will be something to tell; None: there is nothing."""
        return self.began_s + WINDOW_S if any(self.counts.values()) else None

    def tell(self, now_s: float, at_once: bool = False) -> list[f.PeerRefused]:
        """What came again, when its window is over (or at once); then a new window begins."""
        if not self.counts or (not at_once and now_s < self.began_s + WINDOW_S):
            return []
        told = [f.PeerRefused(*key, count) for key, count in self.counts.items() if count]
        self.counts = {}
        return told


def _plain(text: str, length: int) -> str:
    """Peers choose parts of it: printable, and not long."""
    return "".join(c if c.isprintable() else "?" for c in text[:length])
