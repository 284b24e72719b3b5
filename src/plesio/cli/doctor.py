"""`plesio doctor`: looks at this machine, and at the way from here to a run, and says what to do.

It gathers; `checks` judges. The token is never shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from plesio.cli import checks as c
from plesio.errors import AccessRefused, UserError, WireError
from plesio.runtime import probe
from plesio.runtime.hostsettings import usable_cores
from plesio.runtime.viewer import Target, connect
from plesio.version import VERSION
from plesio.wire import tokens
from plesio.wire.tls import Tls, load

TORCH_S = 120.0
ASK_TORCH = "import json, torch; print(json.dumps([torch.__version__, torch.get_num_threads()]))"

Tell = Callable[[c.Check], None]


def examine(
    address: tuple[str, int] | None, token_file: Path | None, runs: Path, as_json: bool, tls: str | None = None
) -> bool:
    """All checks, told one by one as they are made; True when none failed."""
    made: list[c.Check] = []
    links: list[probe.Link] = []

    def tell(check: c.Check) -> None:
        made.append(check)
        if not as_json:
            print(in_words(check), flush=True)

    this_machine(runs, tell)
    if address is not None:
        asyncio.run(way_to(*address, token_file, tell, links.append, load(tls) if tls else None))
    good = all(check.state != "failed" for check in made)
    if as_json:
        measured = msgspec.structs.asdict(links[0]) if links else None
        print(json.dumps({"ok": good, "checks": [msgspec.structs.asdict(x) for x in made], "measured": measured}))
    return good


def in_words(check: c.Check) -> str:
    """A line, and a second one with what to do."""
    line = f"{check.state.upper() if check.state == 'failed' else check.state:8} {check.name}: {check.found}"
    return f"{line}\n{'':9}{check.mend}" if check.mend else line


def this_machine(runs: Path, tell: Tell) -> None:
    """The checks that need no run."""
    tell(c.python(sys.version_info[:3]))
    tell(c.torch(*ask_torch()))
    tell(c.cores(usable_cores(), container_cores(), os.environ.get("OMP_NUM_THREADS", "")))
    tell(c.disk(*free_disk(runs)))
    tell(c.open_files(file_limit()))
    tell(c.memory(available_memory()))
    tell(c.clock(time.time()))


async def way_to(
    host: str,
    port: int,
    token_file: Path | None,
    tell: Tell,
    on_link: Callable[[probe.Link], None],
    tls: Tls | None = None,
) -> None:
    """The checks of the way to a run. What cannot be looked at after a failure is left out."""
    try:
        tell(c.name_resolves(host, await probe.resolve(host, port), ""))
    except (OSError, UnicodeError) as error:
        tell(c.name_resolves(host, [], c.words(error)))
        return
    token = ""
    if token_file is None:
        tell(c.no_token())
    else:
        try:
            token = tokens.read(token_file)
            tell(c.token_file(""))
        except UserError as error:
            tell(c.token_file(str(error)))
    tell(c.direction())
    if not await _port("coordinator", host, port, tell):
        return
    if not token:
        await _port("synchronizer", host, port + 1, tell)
        return
    await _ask(Target(host, port, token, tls), tell, on_link)


async def _port(what: str, host: str, port: int, tell: Tell) -> bool:
    found: BaseException | None = None
    try:
        await probe.reach(host, port)
    except OSError as error:
        found = error
    tell(c.port_reachable(what, host, port, found))
    return found is None


async def _ask(target: Target, tell: Tell, on_link: Callable[[probe.Link], None]) -> None:
    """Greets the coordinator, measures, and goes where it says that the synchronizer is."""
    prober = probe.Prober()
    try:
        await prober.open(target)
    except (OSError, WireError, AccessRefused) as error:
        _all(tell, c.greeted("coordinator", error))
        return
    _all(tell, c.greeted("coordinator", None))
    try:
        answer = (await prober.ask()).answer
        tell(c.plesio_version(VERSION, answer.plesio))
        at = answer.synchronizer
        told = None if at is None else (at.host, at.port)
        judged = c.advertised(target.host, told)
        tell(judged)
        if told is not None and judged.state == "ok":
            there = target.host if c.is_any(told[0]) else told[0]
            await _synchronizer(Target(there, told[1], target.token, target.tls), tell)
        link = await probe.measure(prober)
        on_link(link)
        tell(c.clock_skew(link.clock_ahead_s, link.clock_error_s))
        tell(c.latency(link))
        tell(c.bandwidth("to the run", link.up_bytes_per_s))
        tell(c.bandwidth("from the run", link.down_bytes_per_s))
    except (WireError, OSError) as error:
        tell(c.cannot_probe(error))
    finally:
        prober.close()


async def _synchronizer(target: Target, tell: Tell) -> None:
    if not await _port("synchronizer", target.host, target.port, tell):
        return
    found: BaseException | None = None
    try:
        channel = await connect(target, lambda *message: None, lambda *end: None, "bulk")
        channel.close()
    except (OSError, WireError, AccessRefused) as error:
        found = error
    _all(tell, c.greeted("synchronizer", found))


def _all(tell: Tell, some: list[c.Check]) -> None:
    for check in some:
        tell(check)


# -- what this machine says of itself


def ask_torch() -> tuple[str, int, str]:
    """(version, threads, error), from another process: importing it takes seconds, and may crash."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, timeout=TORCH_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", 0, f"importing it did not end well: {error}"
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"it ended with code {done.returncode}"]
        return "", 0, f"cannot be imported: {last[0]}"
    version, threads = json.loads(done.stdout.splitlines()[-1])
    return str(version), int(threads), ""


def container_cores(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> float | None:
    """Cores' worth of time that the container may use; None: no limit."""
    words = _read(path).split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() else None


def free_disk(runs: Path) -> tuple[str, int, str]:
    """(folder, free bytes, error) of the runs' folder, or of the one that it would be made in."""
    folder = runs.resolve()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        return str(folder), 0, "is not a folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return str(folder), 0, "cannot be written"
    return str(folder), shutil.disk_usage(folder).free, ""


def file_limit() -> int | None:
    """Files and connections that a process may have open."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def available_memory(
    info: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")
) -> int | None:  # fmt: skip
    """Bytes that a new process could take, by the machine and by the container; None: not known."""
    found: list[int] = []
    for line in _read(info).splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    most, used = _read(group / "memory.max").strip(), _read(group / "memory.current").strip()
    if most.isdigit() and used.isdigit():
        found.append(max(0, int(most) - int(used)))
    return min(found, default=None)


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""
