"""What a run does about a codec that loses much of each change, as sign, topk and randomk do.

What was lost is sent later, so that changes arrive rounds late. That does not go with versions that come down as late, and
gradients lose more by it than the changes of many steps do (docs/codecs.md has the figures): such a codec is for changes, on
the way up, and the user is told.
"""

from __future__ import annotations

from typing import NamedTuple

from plesio.strategies.schedule import Schedule

FINE = frozenset(
    {"none", "bf16", "fp16", "int8", "int4", "nf4", "codebook"}
)  # known without torch, which takes a second
COARSE = 0.05  # of a change's squares
INSTEAD = "int8"
SAMPLE = (256, 256)  # values, as a matrix: some codecs go by shape


def lost(text: str) -> float:
    """Of the squares of normally distributed values what one packet of that codec loses. Raises UserError."""
    if text in FINE:
        return 0.0
    import torch

    from plesio.codecs import decode, parse

    codec = parse(text)
    values = torch.randn(*SAMPLE, generator=torch.Generator().manual_seed(0))
    packet, _ = codec.encode(values, codec.init(values))
    return float((decode(packet) - values).square().sum() / values.square().sum())


class Advice(NamedTuple):
    """Codecs beside the one that the user named, and what to tell of them. gradient_uplink: '' for the same. told: or ''."""

    gradient_uplink: str
    downlink: str
    told: str


def advise(text: str, schedule: Schedule) -> Advice:
    """Of a run with that codec. In one that sends gradients only they go as the user says, and come down as they went up."""
    strategies = [phase.strategy for phase in schedule.phases]
    share = lost(text)
    if share <= COARSE or all(strategy.kind == "replicated" for strategy in strategies):
        return Advice("", text, "")
    told = f"codec {text!r} loses {share:.0%} of a change at first; versions come down as {INSTEAD}"
    gradients = {strategy.sends for strategy in strategies} == {"gradient", "delta"}
    if gradients:
        told += ", and gradients of the rounds before changes go up as that"
    return Advice(INSTEAD if gradients else "", INSTEAD, told)
