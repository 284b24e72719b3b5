"""Whatever comes from the network, its readers raise WireError or nothing, and hold no more than is allowed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plesio.errors import WireError
from plesio.testing import fuzz
from plesio.wire import messages as m
from plesio.wire.greeting import read_greeting

NESTED = 100_000


@pytest.mark.parametrize("part", range(4))
def test_twenty_thousand_changed_messages_do_no_harm(part: int) -> None:
    accepted = fuzz.try_inputs(5000 * part, 5000)
    assert 100 < accepted < 4500, "some are valid, most are not"


@settings(max_examples=1000)
@given(st.sampled_from(["greeting", *fuzz.DIRECTIONS]), st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(what: str, data: bytes) -> None:
    fuzz.read_body(what, data)


@settings(max_examples=500)
@given(st.binary(max_size=3000), st.randoms(use_true_random=False))
def test_any_stream_is_frames_or_refused(data: bytes, rng: object) -> None:
    fuzz.read_stream(rng, data)  # type: ignore[arg-type]


@pytest.mark.parametrize("nest", [b"\x91", b"\x81\xa0", b"\x81\x91"])
def test_deep_nesting_is_refused(nest: bytes) -> None:
    for tail in (nest * NESTED, b"\x9a\xa4Beat\xa1a\x01\xa0" + nest * NESTED):
        for direction in fuzz.DIRECTIONS:
            with pytest.raises(WireError):
                m.decode(direction, tail)
    with pytest.raises(WireError):
        read_greeting(b"\x82\xa1v\x01\xa1x" + nest * 4000)


def test_a_message_that_claims_billions_of_entries_is_refused_at_once() -> None:
    good = m.encode(m.VersionMade(m.Version(1, 1), "delta", {}))
    with pytest.raises(WireError):
        m.decode("bulk", good.replace(b"\x80", b"\xdf\xff\xff\xff\xff", 1))


def test_samples_cover_every_message() -> None:
    rng = fuzz.random.Random(0)
    for direction, kinds in fuzz.DIRECTIONS.items():
        for kind in kinds:
            whole = msgspec.msgpack.encode(fuzz.sample(rng, kind))
            m_or_none = fuzz.read_body(direction, whole)
            assert isinstance(m_or_none, bool)
