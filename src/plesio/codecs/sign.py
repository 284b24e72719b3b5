"""Sign: one bit a value, and a 16-bit scale a block, the mean magnitude (1.02 bits a value at block 1024).

Source: 1-bit SGD, Seide et al. 2014; signSGD with error feedback, Karimireddy et al. 2019 (1901.09847).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from plesio.codecs.blocks import Blocks, largest, rounded
from plesio.codecs.packets import Payload


@dataclass(frozen=True, repr=False)
class Sign(Blocks):
    """Each value is plus or minus the mean magnitude of its block; a block that is not full has its own mean."""

    block: int = 1024
    name: ClassVar[str] = "sign"
    bits: ClassVar[int] = 1
    rule: ClassVar[str] = "signs"

    def quantise(self, rows: Tensor, head: Tensor, short: int) -> tuple[Tensor, Tensor]:
        """See Blocks.quantise. Sums are of float64, so that their order does not show in 16 bits."""
        top, sums = largest(rows), rows.double().abs().sum(1)
        means = torch.where(top.isfinite(), sums / self._counts(len(rows), short).to(rows.device), top).float()
        return rounded(means, top, 1), (~rows.signbit()).to(torch.uint8)

    def levels(self, head: Payload) -> Tensor:
        """See Blocks.levels."""
        return torch.tensor([-1.0, 1.0])

    def quantise_compiled(self, compiled: Any, rows: Any, scales: Any, codes: Any, head: Any, short: int) -> int:
        """See Blocks.quantise_compiled."""
        sums = np.empty(len(rows), np.float64)
        found: int = compiled.signs([rows, sums, codes])
        if found == -1:
            found_sums = torch.from_numpy(sums)  # of anything but zeros not 0, as a mean may be
            exact = rounded((found_sums / self._counts(len(rows), short)).float(), found_sums, 1).float().numpy()
            scales[:] = exact.view(np.uint32) >> 16
        return found

    def read_compiled(self, compiled: Any, rows: list[Any], weight: float | None, head: Payload) -> None:
        """See Blocks.read_compiled."""
        compiled.decode(compiled.decode_sign, rows, weight)

    def _counts(self, rows: int, short: int) -> Tensor:
        """(rows,) float64: values in each."""
        counts = torch.full((rows,), float(self.block), dtype=torch.float64)
        counts[-1] -= short
        return counts
