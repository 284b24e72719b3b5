"""What every registered store promises (plesio.stores.base)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from plesio.errors import Fenced, InternalError
from plesio.registry import STORES, load
from plesio.stores.base import Store

Scenario = Callable[[Store], Awaitable[None]]
Run = Callable[[Scenario], None]


def arguments(name: str, folder: Path) -> dict[str, Any]:
    """What each store's constructor needs; a new store gets a line here."""
    return {"memory": {}, "sqlite": {"path": folder / "journal.sqlite"}}[name]


async def reopened(store: Any, name: str, folder: Path) -> Store:
    """What a restarted process finds."""
    await store.close()
    successor = store.clone() if name == "memory" else load(STORES, "store", name)(**arguments(name, folder))
    await successor.open()
    return successor  # type: ignore[no-any-return]


@pytest.fixture(params=sorted(STORES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(name: str, tmp_path: Path) -> Run:
    def run(scenario: Scenario) -> None:
        async def session() -> None:
            store: Store = load(STORES, "store", name)(**arguments(name, tmp_path))
            await store.open()
            try:
                await scenario(store)
            finally:
                await store.close()

        asyncio.run(session())

    return run


async def filled(store: Store, count: int) -> int:
    """Elects a leader, appends blobs b"1", b"2", ... and returns the epoch."""
    epoch = await store.elect("a", 0, 0)
    for seq in range(count):
        await store.append(epoch, seq, b"%d" % (seq + 1))
    return epoch


def test_a_new_store_is_empty(run: Run) -> None:
    async def scenario(store: Store) -> None:
        assert await store.last_seq() == 0
        assert await store.read(0) == []
        assert await store.get_snapshot() is None

    run(scenario)


def test_blobs_come_back_numbered_and_in_order(run: Run) -> None:
    async def scenario(store: Store) -> None:
        blobs = [b"", b"\x00\xff", b"x" * 100_000]
        epoch = await store.elect("a", 0, 0)
        assert [await store.append(epoch, seq, blob) for seq, blob in enumerate(blobs)] == [1, 2, 3]
        assert await store.read(0) == list(enumerate(blobs, start=1))
        assert await store.read(2) == [(3, blobs[2])]
        assert await store.read(0, most=2) == [(1, blobs[0]), (2, blobs[1])] and await store.read(0, most=0) == []
        assert await store.read(3) == await store.read(99) == []
        assert await store.last_seq() == 3

    run(scenario)


def test_an_append_out_of_turn_is_fenced_and_writes_nothing(run: Run) -> None:
    async def scenario(store: Store) -> None:
        epoch = await filled(store, 2)
        for expected_seq in (-1, 0, 1, 3):
            with pytest.raises(Fenced, match="last blob is 2"):
                await store.append(epoch, expected_seq, b"no")
        assert await store.read(0) == [(1, b"1"), (2, b"2")]
        assert await store.append(epoch, 2, b"3") == 3

    run(scenario)


def test_only_the_leading_epoch_writes(run: Run) -> None:
    async def scenario(store: Store) -> None:
        old = await filled(store, 1)
        new = await store.elect("b", 0, 0)
        for epoch in (0, old, new + 1):
            with pytest.raises(Fenced, match="'b' leads with epoch"):
                await store.append(epoch, 1, b"no")
            with pytest.raises(Fenced, match="'b' leads with epoch"):
                await store.put_snapshot(epoch, 1, b"no")
        assert (await store.read(0), await store.get_snapshot()) == ([(1, b"1")], None)
        assert await store.append(new, 1, b"2") == 2

    run(scenario)


def test_nobody_writes_before_an_election(run: Run) -> None:
    async def scenario(store: Store) -> None:
        with pytest.raises(Fenced, match="nobody was elected"):
            await store.append(0, 0, b"no")

    run(scenario)


def test_every_election_gives_a_higher_epoch(run: Run) -> None:
    async def scenario(store: Store) -> None:
        assert [await store.elect(holder, 0, 0) for holder in "aabb"] == [1, 2, 3, 4]

    run(scenario)


def test_a_lease_holds_until_it_expires(run: Run) -> None:
    async def scenario(store: Store) -> None:
        epoch = await store.elect("a", 10, 100)
        with pytest.raises(Fenced, match=r"'a' leads for another 0\.5 s"):
            await store.elect("b", 10, 109.5)
        assert await store.append(epoch, 0, b"still leads") == 1
        renewed = await store.elect("a", 10, 109.5)
        with pytest.raises(Fenced):
            await store.elect("b", 10, 119)
        assert await store.elect("b", 10, 119.5) > renewed > epoch

    run(scenario)


def test_an_expired_leader_leads_until_it_is_displaced(run: Run) -> None:
    async def scenario(store: Store) -> None:
        epoch = await store.elect("a", 1, 0)
        with pytest.raises(Fenced):
            await store.elect("b", 1, 0.5)
        assert await store.append(epoch, 0, b"long after 1 s") == 1

    run(scenario)


def test_a_ttl_of_zero_displaces_and_can_be_displaced_at_once(run: Run) -> None:
    async def scenario(store: Store) -> None:
        leased = await store.elect("a", 1000, 0)
        embedded = await store.elect("b", 0, 1)
        assert await store.elect("c", 10, 1) > embedded > leased

    run(scenario)


def test_a_snapshot_replaces_the_blobs_up_to_it(run: Run) -> None:
    async def scenario(store: Store) -> None:
        epoch = await filled(store, 5)
        await store.put_snapshot(epoch, 3, b"as of 3")
        assert await store.get_snapshot() == (3, b"as of 3")
        assert await store.read(0) == await store.read(3) == [(4, b"4"), (5, b"5")]
        await store.put_snapshot(epoch, 5, b"as of 5")
        await store.put_snapshot(epoch, 5, b"as of 5")
        assert (await store.get_snapshot(), await store.read(0)) == ((5, b"as of 5"), [])
        assert await store.last_seq() == 5
        assert await store.append(epoch, 5, b"6") == 6
        assert await store.read(5) == [(6, b"6")]

    run(scenario)


def test_a_snapshot_may_leave_history(run: Run) -> None:
    async def scenario(store: Store) -> None:
        epoch = await filled(store, 5)
        await store.put_snapshot(epoch, 4, b"as of 4", history_from=3)
        assert await store.get_snapshot() == (4, b"as of 4")
        assert [seq for seq, _ in await store.read(0)] == [3, 4, 5] and await store.last_seq() == 5
        assert await store.append(epoch, 5, b"6") == 6
        await store.put_snapshot(epoch, 6, b"as of 6", history_from=99)
        assert await store.read(0) == [] and await store.last_seq() == 6

    run(scenario)


def test_a_snapshot_of_no_known_state_is_refused(run: Run) -> None:
    async def scenario(store: Store) -> None:
        epoch = await filled(store, 3)
        await store.put_snapshot(epoch, 2, b"as of 2")
        for seq in (1, 4):
            with pytest.raises(InternalError, match="2..3"):
                await store.put_snapshot(epoch, seq, b"no")
        assert (await store.get_snapshot(), await store.read(0)) == ((2, b"as of 2"), [(3, b"3")])

    run(scenario)


def test_a_restart_finds_everything_and_the_lease(run: Run, name: str, tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        epoch = await filled(store, 3)
        await store.put_snapshot(epoch, 2, b"as of 2")
        leased = await store.elect("a", 10, 0)
        successor = await reopened(store, name, tmp_path)
        assert (await successor.get_snapshot(), await successor.read(2)) == ((2, b"as of 2"), [(3, b"3")])
        with pytest.raises(Fenced):
            await successor.elect("b", 10, 5)
        newest = await successor.elect("b", 10, 10)
        assert newest > leased
        assert await successor.append(newest, await successor.last_seq(), b"4") == 4
        await successor.close()
        await successor.close()

    run(scenario)


def test_a_blob_is_kept_as_it_was_when_appended(run: Run) -> None:
    async def scenario(store: Store) -> None:
        epoch = await store.elect("a", 0, 0)
        buffer = bytearray(b"then")
        await store.append(epoch, 0, buffer)  # type: ignore[arg-type]
        buffer[:] = b"now!"
        assert await store.read(0) == [(1, b"then")]

    run(scenario)
