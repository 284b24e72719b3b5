"""What the SQLite journal does when processes die, compete, or the disk does not cooperate."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from plesio.errors import Fenced, InternalError, StoreError, UserError
from plesio.stores.sqlite import SqliteStore

WRITER = """
import asyncio, sys
from plesio.stores.sqlite import SqliteStore

async def main():
    store = SqliteStore(sys.argv[1])
    await store.open()
    epoch = await store.elect("writer", 0, 0)
    seq = await store.last_seq()
    while True:
        seq = await store.append(epoch, seq, b"%d" % seq + b"x" * (seq % 5000))
        print(seq, flush=True)
        if seq % 70 == 0:
            await store.put_snapshot(epoch, seq, b"%d" % seq)

asyncio.run(main())
"""


def written_until_killed(path: Path, lines: int, delay_s: float) -> int:
    """Runs a writer, kills it `delay_s` after its `lines`-th acknowledgement; returns the last one."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline() for _ in range(lines)]
        time.sleep(delay_s)  # the moment of death is real: that is the point of this test
        writer.kill()
        acknowledged += writer.stdout.readlines()
    assert writer.returncode == -signal.SIGKILL
    return int(acknowledged[-1])


def with_stores(scenario: Callable[..., Awaitable[None]], *stores: SqliteStore) -> None:
    async def session() -> None:
        for store in stores:
            await store.open()
        try:
            await scenario(*stores)
        finally:
            for store in stores:
                await store.close()

    asyncio.run(session())


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    path, chance = tmp_path / "journal.sqlite", random.Random(0)
    for life in range(1, 9):
        acknowledged = written_until_killed(path, chance.randint(1, 200), chance.random() * 0.02)

        async def check(store: SqliteStore, acknowledged: int = acknowledged, life: int = life) -> None:
            last_seq = await store.last_seq()
            assert acknowledged <= last_seq <= acknowledged + 1, "at most one append died before its word"
            as_of, state = await store.get_snapshot() or (0, b"0")
            assert state == b"%d" % as_of
            blobs = await store.read(0)
            assert blobs == [(n + 1, b"%d" % n + b"x" * (n % 5000)) for n in range(as_of, last_seq)]
            assert await store.elect("checker", 0, 0) == 2 * life

        with_stores(check, SqliteStore(path))


def test_of_two_openers_the_older_epoch_is_fenced(tmp_path: Path) -> None:
    async def scenario(old: SqliteStore, new: SqliteStore) -> None:
        old_epoch = await old.elect("old", 0, 0)
        await old.append(old_epoch, 0, b"1")
        new_epoch = await new.elect("new", 0, 0)
        with pytest.raises(Fenced, match="'new' leads"):
            await old.append(old_epoch, 1, b"no")
        with pytest.raises(Fenced, match="'new' leads"):
            await old.put_snapshot(old_epoch, 1, b"no")
        assert await new.append(new_epoch, 1, b"2") == 2
        assert await old.read(0) == [(1, b"1"), (2, b"2")]

    path = tmp_path / "journal.sqlite"
    with_stores(scenario, SqliteStore(path), SqliteStore(path))


def test_the_journal_stays_small_when_snapshots_are_taken(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        epoch, largest = await store.elect("a", 0, 0), 0
        for seq in range(20_000):
            await store.append(epoch, seq, bytes(1024))
            if (seq + 1) % 1000 == 0:
                largest = max(largest, sum(file.stat().st_size for file in tmp_path.iterdir()))
                await store.put_snapshot(epoch, seq + 1, bytes(1024))
        assert largest < 8_000_000, "all files of the journal together"

    with_stores(scenario, SqliteStore(tmp_path / "journal.sqlite"))
    assert (tmp_path / "journal.sqlite").stat().st_size < 100_000, "freed pages go back to the disk"


@pytest.mark.parametrize(
    ("obstacle", "mend"),
    [("PRAGMA max_page_count = 1", "free some space"), ("PRAGMA query_only = 1", "make it .* writable")],
)
def test_a_refusing_disk_is_named_with_its_mend(tmp_path: Path, obstacle: str, mend: str) -> None:
    async def scenario(store: SqliteStore) -> None:
        epoch = await store.elect("a", 0, 0)
        store._db.execute(obstacle)
        with pytest.raises(StoreError, match=f"journal.sqlite: .*{mend}"):
            await store.append(epoch, 0, bytes(100_000))
        store._db.execute("PRAGMA query_only = 0")
        store._db.execute("PRAGMA max_page_count = 1000000")
        assert await store.read(0) == []
        assert await store.append(epoch, 0, b"after the mend") == 1

    with_stores(scenario, SqliteStore(tmp_path / "journal.sqlite"))


def test_a_snapshot_that_fails_half_way_changes_nothing(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        epoch = await store.elect("a", 0, 0)
        await store.append(epoch, 0, b"1")
        store._db.execute(
            "CREATE TEMP TRIGGER stop BEFORE DELETE ON main.journal BEGIN SELECT RAISE(ABORT, 'stopped'); END"
        )
        with pytest.raises(StoreError, match="stopped"):
            await store.put_snapshot(epoch, 1, b"as of 1")
        assert (await store.get_snapshot(), await store.read(0)) == (None, [(1, b"1")])

    with_stores(scenario, SqliteStore(tmp_path / "journal.sqlite"))


def foreign_text(path: Path) -> None:
    path.write_text("dear diary\n" * 100)


def foreign_note(path: Path) -> None:
    path.write_text("hi")


def foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE diary (day, text)")
    db.close()


def future_journal(path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        store._db.execute("PRAGMA user_version = 7")

    with_stores(scenario, SqliteStore(path))


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (foreign_text, "is not a plesio journal; name another path"),
        (foreign_note, "is not a plesio journal; name another path"),
        (foreign_database, "not a plesio journal; name another path"),
        (future_journal, "has version 7, this plesio reads version 1"),
    ],
)
def test_a_file_of_someone_else_is_refused_untouched(
    tmp_path: Path, write: Callable[[Path], None], complaint: str
) -> None:
    path = tmp_path / "file"
    write(path)
    path.chmod(0o644)
    before = path.read_bytes()
    with pytest.raises(UserError, match=complaint):
        asyncio.run(SqliteStore(path).open())
    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_only_the_owner_can_read_the_journal(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        await store.elect("a", 0, 0)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
        assert modes == dict.fromkeys(["journal", "journal-wal", "journal-shm"], 0o600)

    (tmp_path / "journal").touch(0o644)
    with_stores(scenario, SqliteStore(tmp_path / "journal"))


def test_the_asked_durability_is_what_sqlite_runs_with(tmp_path: Path) -> None:
    async def scenario(normal: SqliteStore, full: SqliteStore) -> None:
        for store, level in ((normal, 1), (full, 2)):
            await store.elect("a", 0, 0)
            assert store._db.execute("PRAGMA synchronous").fetchone() == (level,)

    with_stores(scenario, SqliteStore(tmp_path / "n"), SqliteStore(tmp_path / "f", sync="full"))
    with pytest.raises(UserError, match="known are: normal, full"):
        asyncio.run(SqliteStore(tmp_path / "x", sync="off").open())  # type: ignore[arg-type]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere/journal: No such file.*see that its folder exists"):
        asyncio.run(SqliteStore(tmp_path / "nowhere" / "journal").open())


def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="while closed"):
        asyncio.run(SqliteStore(tmp_path / "journal").last_seq())
