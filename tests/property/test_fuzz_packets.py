"""Whatever bytes come, they are refused, or they are a tensor of the shape that they say."""

from __future__ import annotations

import random

import pytest

from plesio import registry
from plesio.codecs import Packet
from plesio.testing import fuzzpackets


@pytest.mark.parametrize("part", range(4))
def test_twenty_thousand_changed_packets_do_no_harm(part: int) -> None:
    accepted = fuzzpackets.try_inputs(5000 * part, 5000)
    assert 500 < accepted < 4500, "some are valid, most are not"


def test_samples_and_claims_are_of_every_codec() -> None:
    sampled = {name for data in fuzzpackets.samples() for name, _ in Packet.from_bytes(data).stages}
    assert sampled == {*registry.STAGES}
    claimed = [fuzzpackets.claimed(random.Random(seed)) for seed in range(3000)]
    accepted = {name for data in claimed if fuzzpackets.read(data) for name, _ in Packet.from_bytes(data).stages}
    assert accepted == {*registry.CODECS}


def test_a_packet_that_decodes_to_something_else_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzpackets, "decode", lambda packet: fuzzpackets.torch.zeros(1, 2, 3))
    with pytest.raises(AssertionError, match="another shape"):
        fuzzpackets.try_inputs(0, 50)
