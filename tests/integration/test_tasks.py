"""Tasks with real processes: what a user sees of results, failures, retries, cancellation and dependencies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

import plesio
from plesio.errors import CannotSend, TaskCancelled, TaskFailed, UserError
from plesio.tasks import Client
from plesio.testing.poolcrew import PoolCrew
from plesio.testing.waiting import wait_for

CALLS = str(Path(__file__).parents[1] / "scripts" / "calls.py")
WAIT_S = 150.0
SLOW_MODULE = """
import builtins, os, pathlib, select, signal
assert not hasattr(builtins, "half")  # as torch, it cannot be imported again by a process that has half of it
builtins.half = 1
told, teller = os.pipe2(os.O_NONBLOCK)
signal.set_wakeup_fd(teller)
pathlib.Path({begun!r}).touch()
assert select.select([told], [], [], 60)[0], "told to stop"
signal.set_wakeup_fd(-1)
def value():
    return 7
"""
CALLER = """
import sys, threading, time
sys.path.insert(0, {folder!r})
def call():
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()  # it may be the one that gets the signal
    from plesio.runtime.functions import Functions
    return Functions().get("slow_module:value")()
"""


def fn(name: str) -> str:
    return f"{CALLS}:{name}"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with plesio.connect(folder=tmp_path_factory.mktemp("pool"), workers=2) as client:
        yield client


def test_results_come_back_whatever_they_are(client: Client) -> None:
    assert client.submit(fn("add"), 1, 2).result(WAIT_S) == 3
    assert client.submit(fn("add"), [1, "a"], kwargs={"b": [{"x": None}]}).result(WAIT_S) == [1, "a", {"x": None}]
    assert (client.submit(fn("add"), numpy.arange(5), 1).result(WAIT_S) == numpy.arange(1, 6)).all()
    assert client.gather([client.submit(fn("add"), i, i) for i in range(500)]) == [2 * i for i in range(500)]


@pytest.mark.parametrize(
    ("name", "args", "kind", "says"),
    [
        ("boom", ("my words",), "raised", "my words"),
        ("leave", (), "crashed", "exit code 3"),
        ("crash", (), "crashed", "SIGSEGV"),
        ("unsendable", (), "unsendable", "result"),
        ("missing", (), "not importable", "missing"),
        ("nap", ("x",), "raised", "TypeError"),
    ],
)
def test_each_failure_is_told_by_its_kind_and_the_worker_lives_on(
    client: Client, name: str, args: tuple[object, ...], kind: str, says: str
) -> None:
    with pytest.raises(TaskFailed, match=says) as failure:
        client.submit(fn(name), *args).result(WAIT_S)
    assert failure.value.kind == kind
    assert client.gather([client.submit(fn("add"), i) for i in range(10)], WAIT_S) == list(range(10))


def test_what_was_done_before_a_task_that_takes_long_does_not_wait_for_its_end(tmp_path: Path) -> None:
    with plesio.connect(folder=tmp_path / "pool", workers=1) as client:
        client.gather([client.submit(fn("passes")) for _ in range(200)], WAIT_S)  # such tasks are short, it seems
        for number in range(3):
            gate = tmp_path / str(number)
            short = [client.submit(fn("passes")) for _ in range(20)]
            long = client.submit(fn("passes"), str(gate))
            assert client.gather(short, WAIT_S) == [""] * 20 and not long.done()
            gate.touch()
            assert long.result(WAIT_S) == str(gate)


def test_one_that_hangs_ends_with_its_timeout(client: Client) -> None:
    with pytest.raises(TaskFailed, match="timeout of 0.3 s") as failure:
        client.submit(fn("nap"), 60, timeout_s=0.3).result(WAIT_S)
    assert failure.value.kind == "timed out"


def test_what_fails_is_tried_again_as_often_as_said(client: Client, tmp_path: Path) -> None:
    assert client.submit(fn("once"), str(tmp_path / "a"), retries=1).result(WAIT_S) == "the second time"
    with pytest.raises(TaskFailed, match="the first time"):
        client.submit(fn("once"), str(tmp_path / "b")).result(WAIT_S)


def test_a_task_is_cancelled_while_it_waits_and_while_it_runs(client: Client) -> None:
    running = [client.submit(fn("nap"), 60) for _ in range(2)]
    waiting = client.submit(fn("add"), 1)
    wait_for(lambda: client.ask("counts")["running"] >= 2, "they run")
    waiting.cancel()
    with pytest.raises(TaskCancelled):
        waiting.result(WAIT_S)
    for future in running:
        future.cancel()
        with pytest.raises(TaskCancelled):
            future.result(WAIT_S)
    assert client.submit(fn("add"), 7).result(WAIT_S) == 7, "the workers are free again"


def test_a_future_as_an_argument_is_its_result(client: Client) -> None:
    first = client.submit(fn("add"), 1, 2)
    second = client.submit(fn("add"), first, 10)
    third = client.submit(fn("add"), first, second)
    assert third.result(WAIT_S) == 16
    failed = client.submit(fn("boom"), "at the root")
    with pytest.raises(TaskFailed, match="at the root") as failure:
        client.submit(fn("add"), client.submit(fn("add"), failed), 1).result(WAIT_S)
    assert failure.value.kind == "needed"


def test_the_same_key_is_the_same_task(client: Client, tmp_path: Path) -> None:
    path = str(tmp_path / "effects")
    futures = [client.submit(fn("note"), path, "x", 0.2, key="k") for _ in range(3)]
    assert client.gather(futures, WAIT_S) == ["x"] * 3
    assert client.submit(fn("note"), path, "y", key="k").result(WAIT_S) == "x"
    assert Path(path).read_text() == "x\n"


@pytest.mark.parametrize("name", ["meet", "meet_in_threads"])
def test_coroutines_and_thread_tasks_run_many_at_a_time(client: Client, name: str, tmp_path: Path) -> None:
    futures = (client.submit(fn(name), str(tmp_path), i, 40) for i in range(40))
    assert client.gather(futures, WAIT_S) == list(range(40)), "each waits for all the others, and there are two slots"
    assert client.submit(fn("add"), 1, 2).result(WAIT_S) == 3


def test_a_coroutine_fails_stops_and_runs_out_of_time_like_any_task(client: Client) -> None:
    with pytest.raises(TaskFailed, match="in a coroutine"):
        client.submit(fn("aboom")).result(WAIT_S)
    with pytest.raises(TaskFailed, match="its own words") as failure:
        client.submit(fn("late")).result(WAIT_S)
    assert failure.value.kind == "raised", "a TimeoutError of its own is not ours"
    with pytest.raises(TaskFailed, match="timeout of 0.2 s"):
        client.submit(fn("doze"), 60, timeout_s=0.2).result(WAIT_S)
    stopped = client.submit(fn("doze"), 60)
    with pytest.raises(TimeoutError):
        stopped.result(0.3)
    stopped.cancel()
    with pytest.raises(TaskCancelled):
        stopped.result(WAIT_S)
    assert client.submit(fn("doze"), 0.01).result(WAIT_S) == 0.01


def test_not_before_its_delay(client: Client) -> None:
    began_s = time.monotonic()
    assert client.submit(fn("add"), 1, delay_s=0.5).result(WAIT_S) == 1
    assert time.monotonic() - began_s >= 0.5


def test_map_reduce_and_await(client: Client) -> None:
    assert list(client.map(fn("add"), range(50), window=7)) == list(range(50))
    assert sorted(client.map(fn("add"), range(50), ordered=False)) == list(range(50))
    assert client.reduce(fn("same"), "abcde", combine=fn("add")) == "abcde"
    with pytest.raises(UserError, match="nothing"):
        client.reduce(fn("add"), [], combine=fn("add"))

    async def main() -> list[int]:
        return await asyncio.gather(*[client.submit(fn("add"), i) for i in range(5)])

    assert asyncio.run(main()) == list(range(5))


def test_bad_input_is_told_at_once(client: Client) -> None:
    with pytest.raises(CannotSend):
        client.submit(fn("add"), object())
    with pytest.raises(UserError, match="while the program runs"):
        client.submit(lambda: 1)
    with pytest.raises(UserError, match=r"package\.module:function"):
        client.submit("nothing")
    with pytest.raises(TaskFailed, match="priority"):
        client.submit(fn("add"), 1, priority=10**6).result(WAIT_S)
    with pytest.raises(UserError, match="HOST:PORT"):
        plesio.connect("nowhere")


def test_a_decorated_function_is_the_plain_function_when_called() -> None:
    @plesio.task(retries=3)
    def double(x: int) -> int:
        return 2 * x

    assert double(4) == 8


def test_large_arrays_go_through_shared_memory_and_leave_nothing_behind(tmp_path: Path) -> None:
    segments = tmp_path / "segments"

    def files() -> list[str]:
        return [path.name for path in segments.iterdir() if path.is_file() and len(path.name) == 32]

    with plesio.connect(folder=tmp_path, workers=2) as client:
        array = numpy.arange(1 << 20, dtype="float32")

        def compute(x: int) -> bool:
            total = client.submit(fn("add"), array, x)
            assert total.result(WAIT_S)[1] == 1 + x
            chained = client.submit(fn("add"), total, array)  # it is kept as long as its Future is
            return bool((chained.result(WAIT_S) == 2 * array + x).all() and (total.result(WAIT_S) == array + x).all())

        assert all(compute(x) for x in range(3))
        assert client.ask("counts")["done"] == 6 and client._link.shares.fallbacks == 0
        wait_for(lambda: not files(), "what everybody has had is dropped")
        dead = client.submit(fn("leave"), array)
        with pytest.raises(TaskFailed):
            dead.result(WAIT_S)
        assert len(files()) == 1, "a dead letter may be tried again"


def test_who_cannot_read_the_shared_memory_gets_the_bytes(tmp_path: Path) -> None:
    array = numpy.arange(1 << 19, dtype="float64")
    with plesio.connect(folder=tmp_path, workers=1) as near:
        url = f"127.0.0.1:{near._link.address.port}"
        with plesio.connect(url, token_file=str(tmp_path / "token")) as far:
            task = near.submit(fn("add"), array, 1)
            near.flush()  # the other connection may be faster
            [same] = far.follow([task.name])
            assert (same.result(WAIT_S) == array + 1).all() and (task.result(WAIT_S) == array + 1).all()
            assert (far.submit(fn("add"), array, 2).result(WAIT_S) == array + 2).all()


def test_one_that_eats_memory_is_ended_and_told_and_the_others_go_on(tmp_path: Path) -> None:
    with PoolCrew(tmp_path) as crew:
        crew.start_node("small", memory_bytes=200 << 20)
        client = crew.client()
        eater, other = client.submit(fn("eat"), 400), client.submit(fn("add"), 1, 2)
        with pytest.raises(TaskFailed, match="200 MiB") as failure:
            eater.result(WAIT_S)
        assert failure.value.kind == "memory" and other.result(WAIT_S) == 3
        client.close()


def test_a_task_goes_where_its_tags_are(tmp_path: Path) -> None:
    with PoolCrew(tmp_path) as crew:
        crew.start_node("plain")
        client = crew.client()
        crew.wait_for_slots(client, 1)
        picky = client.submit(fn("add"), 1, requires={"gpu": 2})
        assert client.submit(fn("add"), 2).result(WAIT_S) == 2 and not picky.done()
        crew.start_node("equipped", gpu=2)
        assert picky.result(WAIT_S) == 1
        client.close()


def test_a_task_that_is_stopped_while_it_imports_leaves_its_process_whole(tmp_path: Path) -> None:
    folder = tmp_path / "modules"
    folder.mkdir()
    begun = tmp_path / "begun"
    (folder / "slow_module.py").write_text(SLOW_MODULE.format(begun=str(begun)))
    script = tmp_path / "caller.py"
    script.write_text(CALLER.format(folder=str(folder)))
    with plesio.connect(folder=tmp_path / "pool", workers=1) as client:
        first = client.submit(f"{script}:call")
        wait_for(begun.exists, "the import has begun")
        first.cancel()
        assert isinstance(first.exception(WAIT_S), TaskCancelled)
        assert client.submit(f"{script}:call").result(WAIT_S) == 7
        assert client.ask("counts")["done"] == 1
