"""LocalLauncher with real processes; every wait is bounded.

Where torch itself does not matter, the zygote imports an empty module of that name, to save 1.5 s a test. Where something is
to happen during the import, one that takes as long as the test likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from plesio.launchers.backoff import HEALTHY_S, Backoff, in_a_row
from plesio.launchers.base import Exit, Launcher, ProcessSpec
from plesio.launchers.local import LocalLauncher

LIMIT_S = 60.0
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; PR_SET_PDEATHSIG")
either_way = pytest.mark.parametrize("fresh", [False, True], ids=["fork", "fresh"])
Play = Callable[[Launcher], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Play], None]:
    """Run a scene with a launcher whose logs are in tmp_path/logs, then close it."""

    async def bounded(scene: Play) -> None:
        launcher = LocalLauncher(tmp_path / "logs")
        try:
            async with asyncio.timeout(LIMIT_S):
                await scene(launcher)
        finally:
            await launcher.close()

    return lambda scene: asyncio.run(bounded(scene))


@pytest.fixture
def hollow_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The module."""
    module = tmp_path / "hollow" / "torch.py"
    module.parent.mkdir()
    module.write_text("def set_num_threads(count): pass\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(module.parent), os.environ.get("PYTHONPATH", "")]))
    return module


hollow = pytest.mark.usefixtures("hollow_torch")


@pytest.fixture
def long_import(hollow_torch: Path) -> Path:
    """The import of torch goes on as long as there is this file."""
    hold = hollow_torch.with_name("hold")
    hold.touch()
    hollow_torch.write_text(f"import os, time\nwhile os.path.exists({str(hold)!r}): time.sleep(0.01)\n")
    return hold


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "scripts" / "job.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


def state(pid: int) -> str:
    """The letter of /proc/PID/stat; Z (ended, not reaped by whoever inherited it) counts as gone."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    return "gone" if letter in "ZX" else letter


def descendants(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
        return [found for child in children for found in (child, *descendants(child))]
    return []


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.01)


@either_way
@hollow
def test_a_script_runs_as_main_and_its_exit_code_log_and_atexit_arrive(play, script, tmp_path, fresh):
    path = script(
        "import atexit, os, sys\n"
        "import neighbour\n"
        "atexit.register(lambda: print('goodbye'))\n"
        "print(__name__, sys.argv[1:], os.environ['SECRET'], __file__ == sys.argv[0])\n"
        "print('to stderr', file=sys.stderr)\n"
        "sys.exit(7)\n"
    )
    Path(path).with_name("neighbour.py").write_text("")

    async def scene(launcher: Launcher) -> None:
        spec = ProcessSpec(name="job", script=path, argv=("a", "b c"), env={"SECRET": "s3"}, fresh=fresh)
        id = await launcher.start(spec)
        assert await launcher.wait_exit() == Exit(id, "job", 7)
        assert launcher.poll() == [] and launcher.pid(id) is None

    play(scene)
    log = (tmp_path / "logs" / "job.log").read_text().splitlines()
    assert sorted(log) == sorted(["__main__ ['a', 'b c'] s3 True", "to stderr", "goodbye"])
    assert not (tmp_path / "logs" / "job.log.error").exists()


@either_way
@hollow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_secret_reaches_the_process_and_the_system_shows_it_to_nobody(play, tmp_path, script, fresh):
    path = script(
        "import os, sys\n"
        "from pathlib import Path\n"
        "shown = b''.join(Path('/proc/self', x).read_bytes() for x in ('environ', 'cmdline'))\n"
        "print(os.environ['SECRET'], b'a-secret' in shown, sys.stdin.read() == '')\n"
    )

    async def scene(launcher: Launcher) -> None:
        await launcher.start(ProcessSpec(name="job", script=path, secrets={"SECRET": "a-secret"}, fresh=fresh))
        assert (await launcher.wait_exit()).code == 0

    play(scene)
    assert (tmp_path / "logs" / "job.log").read_text() == "a-secret False True\n"


@either_way
@hollow
def test_a_target_is_called_and_a_second_run_appends_to_the_log(play, tmp_path, monkeypatch, fresh):
    (tmp_path / "aimed.py").write_text("def go():\n    print('called')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    async def scene(launcher: Launcher) -> None:
        for _ in range(2):
            await launcher.start(ProcessSpec(name="t", target="aimed:go", log_name="both.log", fresh=fresh))
            assert (await launcher.wait_exit()).code == 0

    play(scene)
    assert (tmp_path / "logs" / "both.log").read_text() == "called\ncalled\n"


def test_a_fork_has_torch_already_and_its_own_random_numbers(play, script, tmp_path):
    path = script(
        "import sys\nassert 'torch' in sys.modules\n"
        "import numpy, torch\n"
        "print(torch.get_num_threads(), (torch.ones(300, 300) @ torch.ones(300, 300)).sum().item() == 300**3,"
        " numpy.random.random())\n"
    )

    async def scene(launcher: Launcher) -> None:
        for name in ("warm", "a", "b"):
            began = time.perf_counter()
            await launcher.start(ProcessSpec(name=name, script=path, env={"OMP_NUM_THREADS": "1"}))
            print(f"start {name}: {time.perf_counter() - began:.3f} s")
        assert {(await launcher.wait_exit()).code for _ in range(3)} == {0}

    play(scene)
    a, b = ((tmp_path / "logs" / f"{name}.log").read_text().split() for name in "ab")
    assert a[:2] == b[:2] == ["1", "True"]
    assert a[2] != b[2]


@either_way
@hollow
def test_a_killed_process_is_reported_with_the_signal(play, script, fresh):
    path = script("import time\ntime.sleep(600)\n")

    async def scene(launcher: Launcher) -> None:
        id = await launcher.start(ProcessSpec(name="k", script=path, fresh=fresh))
        os.kill(launcher.pid(id), signal.SIGKILL)
        assert await launcher.wait_exit() == Exit(id, "k", -9)
        launcher.signal(id, signal.SIGTERM)
        await launcher.stop(id, 0.0)
        assert launcher.poll() == []

    play(scene)


@either_way
@hollow
def test_an_exception_leaves_a_traceback_and_one_line_for_the_supervisor(play, script, tmp_path, fresh):
    path = script("def f():\n    raise ValueError('no such\\nlayer')\n\nf()\n")

    async def scene(launcher: Launcher) -> None:
        await launcher.start(ProcessSpec(name="bad", script=path, fresh=fresh))
        assert (await launcher.wait_exit()).code == 1

    play(scene)
    (line,) = (tmp_path / "logs" / "bad.log.error").read_text().splitlines()
    expected = {"type": "ValueError", "message": "no such\nlayer", "file": path, "line": 2}
    assert json.loads(line) == expected
    log = (tmp_path / "logs" / "bad.log").read_text()
    assert log.startswith("Traceback") and "layer" in log and "runpy" not in log and "plesio" not in log


@hollow
def test_a_missing_script_and_a_syntax_error_are_told_too(play, script, tmp_path):
    broken = script("x = 1\ny = = 2\n")

    async def scene(launcher: Launcher) -> None:
        await launcher.start(ProcessSpec(name="missing", script="nowhere.py"))
        await launcher.start(ProcessSpec(name="broken", script=broken))
        assert [(await launcher.wait_exit()).code for _ in range(2)] == [1, 1]

    play(scene)
    missing, syntax = (
        json.loads((tmp_path / "logs" / f"{name}.log.error").read_text()) for name in ("missing", "broken")
    )
    assert missing["type"] == "FileNotFoundError" and "nowhere.py" in missing["message"]
    assert (syntax["type"], syntax["file"], syntax["line"]) == ("SyntaxError", broken, 2)


@linux
@either_way
@hollow
def test_signals_pause_and_resume_a_process(play, script, fresh):
    path = script("import time\ntime.sleep(600)\n")

    async def scene(launcher: Launcher) -> None:
        id = await launcher.start(ProcessSpec(name="p", script=path, fresh=fresh))
        pid = launcher.pid(id)
        launcher.signal(id, signal.SIGSTOP)
        await until(lambda: state(pid) == "T")
        launcher.signal(id, signal.SIGCONT)
        await until(lambda: state(pid) in "SR")
        await launcher.stop(id, LIMIT_S)
        assert launcher.poll() == [Exit(id, "p", -15)]

    play(scene)


@either_way
@hollow
def test_stop_kills_what_ignores_the_term_signal(play, script, tmp_path, fresh):
    path = script("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf')\ntime.sleep(600)\n")

    async def scene(launcher: Launcher) -> None:
        id = await launcher.start(ProcessSpec(name="deaf", script=path, fresh=fresh))
        log = tmp_path / "logs" / "deaf.log"
        await until(lambda: log.exists() and "deaf" in log.read_text())
        await launcher.stop(id, 0.1)
        assert launcher.poll() == [Exit(id, "deaf", -9)]

    play(scene)


@linux
@hollow
def test_a_dead_zygote_takes_its_children_and_the_next_start_brings_a_new_one(play, script):
    path = script("import sys, time\ntime.sleep(float(sys.argv[1]))\n")

    async def scene(launcher: Launcher) -> None:
        ids = [await launcher.start(ProcessSpec(name=n, script=path, argv=("600",))) for n in ("a", "b")]
        pids = [launcher.pid(id) for id in ids]
        os.kill(int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
        ended = [await launcher.wait_exit() for _ in ids]
        assert sorted((e.id, e.code) for e in ended) == [(id, -9) for id in ids]
        await until(lambda: all(state(pid) == "gone" for pid in pids))
        again = await launcher.start(ProcessSpec(name="a", script=path, argv=("0",)))
        assert await launcher.wait_exit() == Exit(again, "a", 0)

    play(scene)


@linux
def test_a_cancelled_start_leaves_no_process(play, script, long_import):
    path = script("import time\ntime.sleep(600)\n")

    async def scene(launcher: Launcher) -> None:
        others = set(descendants(os.getpid()))  # a pool of an earlier test may be about to end
        first = asyncio.create_task(launcher.start(ProcessSpec(name="c", script=path)))
        await until(lambda: len(set(descendants(os.getpid())) - others) == 1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        long_import.unlink()
        done = await launcher.start(ProcessSpec(name="d", target="os:getpid"))
        assert await launcher.wait_exit() == Exit(done, "d", 0)
        await until(lambda: len(set(descendants(os.getpid())) - others) == 1)

    play(scene)


@either_way
@hollow
def test_a_passed_listening_socket_accepts_in_the_child(play, script, fresh):
    path = script(
        "from plesio.launchers.base import inherited_socket\n"
        "connection, _ = inherited_socket('http').accept()\n"
        "connection.sendall(b'from the child')\nconnection.close()\n"
    )

    async def scene(launcher: Launcher) -> None:
        any_port = ("127.0.0.1", 0)
        with socket.create_server(any_port) as other, socket.create_server(any_port) as server:
            address = server.getsockname()
            sockets = {"other": other.fileno(), "http": server.fileno()}
            await launcher.start(ProcessSpec(name="s", script=path, sockets=sockets, fresh=fresh))
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.read() == b"from the child"
        writer.close()
        assert (await launcher.wait_exit()).code == 0
        with pytest.raises(ConnectionRefusedError):  # nobody, the zygote included, kept a copy
            await asyncio.open_connection(*address)

    play(scene)


@linux
@pytest.mark.parametrize("moment", ["running", "importing"])
def test_killing_the_owner_leaves_no_descendant(script, tmp_path, long_import, moment):
    if moment == "running":
        long_import.unlink()
    path = script("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)\n")
    owner_code = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from plesio.launchers.base import ProcessSpec\nfrom plesio.launchers.local import LocalLauncher\n"
        "async def main():\n"
        "    launcher = LocalLauncher(Path(sys.argv[2]))\n"
        "    for name, fresh in (('x', True), ('a', False), ('b', False)):\n"
        "        await launcher.start(ProcessSpec(name=name, script=sys.argv[1], fresh=fresh))\n"
        "    print('started', flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", owner_code, path, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        if moment == "running":
            assert owner.stdout.readline() == b"started\n"
        wanted = {"running": 4, "importing": 2}[moment]  # the fresh process, the zygote, two forks
        asyncio.run(until(lambda: len(descendants(owner.pid)) >= wanted))
        family = descendants(owner.pid)
    finally:
        owner.kill()
        owner.communicate(timeout=LIMIT_S)
    assert len(family) == wanted
    asyncio.run(until(lambda: all(state(pid) == "gone" for pid in family)))


@linux
@hollow
def test_close_ends_everything_at_once_and_twice_is_no_error(play, script):
    path = script("import time\ntime.sleep(600)\n")

    async def scene(launcher: Launcher) -> None:
        others = set(descendants(os.getpid()))
        ids = [await launcher.start(ProcessSpec(name="z", script=path, fresh=f)) for f in (False, True)]
        pids = [launcher.pid(id) for id in ids]
        await launcher.close()
        assert [state(pid) for pid in pids] == ["gone", "gone"]
        assert sorted((e.id, e.code) for e in launcher.poll()) == [(id, -9) for id in ids]
        await launcher.close()
        assert set(descendants(os.getpid())) <= others

    play(scene)


def test_a_spec_names_a_target_or_a_script():
    with pytest.raises(ValueError, match="'n' needs a target or a script"):
        ProcessSpec(name="n")


def test_who_lasted_has_not_failed_in_a_row():
    assert [in_a_row(failures, 0.1) for failures in (0, 1, 4)] == [1, 2, 5]
    assert in_a_row(4, HEALTHY_S + 1) == 1


def test_backoff_doubles_up_to_its_cap():
    waits = [Backoff().next(failures) for failures in (0, 1, 2, 3, 6, 7, 10_000)]
    assert waits == [0.0, 0.2, 0.4, 0.8, 6.4, 10.0, 10.0]


@linux
@hollow
@either_way
def test_a_full_disk_loses_what_is_printed_and_the_script_goes_on(
    fresh: bool, play: Callable[[Play], None], script: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").symlink_to("/dev/full")
    path = script("import sys\nfor _ in range(999): print('x'); print('y', file=sys.stderr)\n")

    async def scene(launcher: Launcher) -> None:
        await launcher.start(ProcessSpec(name="a", script=path, fresh=fresh))
        assert (await launcher.wait_exit()).code == 0

    play(scene)
