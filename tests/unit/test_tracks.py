"""Timed spans at their source: short ones are left out, tiny steps become one, and what has no room is counted."""

from __future__ import annotations

import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from plesio.runtime.tracks import GAP_S, JOINED_S, SHORTEST_S, Track, report
from plesio.wire import messages as m
from plesio.wire.timings import NOTHING, Kind, Timings

COMPUTE, WAIT = int(Kind.COMPUTE), int(Kind.WAIT)


def test_a_step_is_one_span_and_tiny_steps_are_joined() -> None:
    track = Track(joining=True)
    for step in range(3):  # long steps stay apart
        track.add(Kind.COMPUTE, step * 1.0, 0.9999)
    for step in range(1000):  # 50 us each, 10 us apart
        track.add(Kind.COMPUTE, 10.0 + step * 60e-6, 50e-6)
    track.flush()
    rows, dropped = track.take()
    assert dropped == 0
    assert [row[1] for row in rows[:3]] == [0.0, 1.0, 2.0]
    tiny = rows[3:]
    assert 1 <= len(tiny) <= 1 + 0.06 / (JOINED_S / 2) and tiny[-1][2] > 10.0599


def test_the_lines_after_a_step_belong_to_the_next() -> None:
    track = Track(joining=True)
    track.add(Kind.COMPUTE, 0.0, 0.002)  # after one step
    track.add(Kind.COMPUTE, 0.0021, 3.0)  # the next
    track.flush()
    assert len(track.take()[0]) == 1


def test_kinds_are_not_joined_and_short_ones_are_left_out() -> None:
    track = Track(joining=True)
    track.add(Kind.COMPUTE, 0.0, 0.01)
    track.add(Kind.WAIT, 0.01, SHORTEST_S / 2)
    track.add(Kind.WAIT, 0.01, 0.01)
    track.add(Kind.COMPUTE, 0.02 + 2 * GAP_S, 0.01)
    track.flush()
    assert [row[0] for row in track.take()[0]] == [COMPUTE, WAIT, COMPUTE]


def test_what_has_no_room_is_counted_once() -> None:
    track = Track(room=5)
    for at in range(8):
        track.add(Kind.ENCODE, at, 0.5, at)
    assert report([track]).dropped == 3
    assert report([track]) == NOTHING
    track.add(Kind.ENCODE, 9.0, 0.5, 9)
    assert [row[3] for row in report([track]).rows] == [9]


def test_one_thread_adds_while_another_takes() -> None:
    track, taken, count = Track(room=10**9), [], 20_000
    adding = threading.Thread(target=lambda: [track.add(Kind.SEND, x, 0.5, x) for x in range(count)])
    adding.start()
    while adding.is_alive():
        taken += track.take()[0]
    taken += track.take()[0]
    assert [row[3] for row in taken] == list(range(count))


spans = st.lists(
    st.tuples(st.sampled_from(list(Kind)), st.floats(0, 1e6), st.floats(0, 1e4), st.integers(0, 2**40)), max_size=40
)


@given(spans, st.booleans())
def test_a_report_has_whole_microseconds_from_its_first_span_on(
    added: list[tuple[Kind, float, float, int]], joining: bool
) -> None:
    track = Track(joining)
    for span in added:
        track.add(*span)
    track.flush()
    rows = report([track]).rows
    assert all(isinstance(x, int) and x >= 0 for row in rows for x in row)
    assert not rows or min(at for _, at, _, _ in rows) == 0
    long_enough = [span for span in added if span[2] >= SHORTEST_S]
    assert len(rows) == len(long_enough) if not joining else len(rows) <= len(long_enough)


def test_times_are_unix_times_of_this_machine() -> None:
    track = Track()
    began_s = time.monotonic()
    track.add(Kind.MERGE, began_s - 1.0, 1.0, 7)
    told = report([track])
    assert abs(told.unix_s - (time.time() - 1.0)) < 60
    assert told.rows[0][0] == Kind.MERGE and abs(told.rows[0][2] - 1_000_000) <= 1


def test_they_travel_in_metrics_as_plain_numbers() -> None:
    sent = m.Metrics("learner-0", 1, loss=0.0, timings=Timings(1.5, ((int(Kind.WAIT), 0, 10, 3),), 2))
    assert m.decode("to", m.encode(sent)) == sent
    assert m.decode("to", m.encode(m.Metrics("learner-0", 1))).timings == NOTHING
