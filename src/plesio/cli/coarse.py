"""What a run does about a codec that loses much of each change, as sign, topk and randomk do.

Feedback sends later what was lost, so that changes arrive rounds late. That goes neither with large outer momentum nor with
versions that come down as late (docs/codecs.md has the figures): such a codec is for the way up, and the user is told.
"""

from __future__ import annotations

from plesio.strategies.schedule import Schedule

FINE = frozenset(
    {"none", "bf16", "fp16", "int8", "int4", "nf4", "codebook"}
)  # known without torch, which takes a second
COARSE = 0.05  # of a change's squares
MOMENTUM = 0.5  # of outer steps; what goes well with late changes
DOWN = "int8"
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


def advise(text: str, schedule: Schedule) -> tuple[str, list[str]]:
    """(the downlink's codec, what to tell the user) of a run with that codec. Gradients come down as they went up."""
    share = lost(text)
    if share <= COARSE or all(phase.strategy.kind == "replicated" for phase in schedule.phases):
        return text, []
    told = [f"codec {text!r} loses {share:.0%} of a change at first; versions come down as {DOWN}"]
    for strategy in (phase.strategy for phase in schedule.phases):
        if strategy.sends == "delta" and strategy.outer.momentum > MOMENTUM:
            told.append(
                f"what arrives late does not go with the outer momentum {strategy.outer.momentum:g} of {strategy.name!r}: "
                f"the loss may grow; write --strategy '{strategy.name}(momentum=0, lr=1)'"
            )
    return DOWN, told
