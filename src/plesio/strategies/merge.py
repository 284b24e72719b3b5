"""How contributions weigh in a round. Pure numbers; the tensors are summed by the synchronizer."""

from __future__ import annotations

from collections.abc import Sequence

from plesio.records import Contribution
from plesio.strategies.base import Merge


def weights(rule: Merge, contributions: Sequence[Contribution]) -> tuple[float, ...]:
    """One factor per contribution, such that the merged value is sum(factor * decoded).

    Several pushes of one contributor follow one another, so their deltas add up and share its weight:
    token-weighted = (its tokens)^2 / (its steps) (2604.21428); tokens = its tokens; mean = 1. Factors of
    the contributors sum to 1. each: every push is a step by itself, with factor 1.
    """
    if rule == "each":
        return (1.0,) * len(contributions)
    tokens: dict[str, float] = {}
    steps: dict[str, float] = {}
    for item in contributions:
        tokens[item.contributor] = tokens.get(item.contributor, 0.0) + item.tokens
        steps[item.contributor] = steps.get(item.contributor, 0.0) + item.steps
    if rule == "mean":
        raw = dict.fromkeys(tokens, 1.0)
    elif rule == "tokens":
        raw = tokens
    else:
        raw = {name: tokens[name] ** 2 / max(steps[name], 1.0) for name in tokens}
    total = sum(raw.values())
    if total <= 0.0:
        raw, total = dict.fromkeys(tokens, 1.0), float(len(tokens))
    return tuple(raw[item.contributor] / total for item in contributions)
