"""The verdicts of `plesio doctor`: from what was found to ok, warning or failed, and what to do. Pure."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address
from typing import Literal

import msgspec

from plesio.errors import ProtocolRefused, TlsRefused, TokenRefused
from plesio.runtime.probe import Link

OLDEST_PYTHON = (3, 11)
OLDEST_TORCH = (2, 4)
GB, MB = 10**9, 10**6
A_PAST_UNIX_S = 1_735_689_600  # 2025-01-01; no clock that is right shows an earlier time

State = Literal["ok", "warning", "failed"]


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at. mend: what to do, or what it means; '': nothing."""

    name: str
    state: State
    found: str
    mend: str = ""


# -- this machine


def python(version: tuple[int, int, int]) -> Check:
    """The interpreter."""
    found = ".".join(map(str, version))
    if version[:2] < OLDEST_PYTHON:
        return Check("python", "failed", found, "install Python {}.{} or newer".format(*OLDEST_PYTHON))
    return Check("python", "ok", found)


def torch(version: str, threads: int, error: str) -> Check:
    """version, threads: as an import of it said; error: why it could not be imported."""
    if error:
        return Check("torch", "failed", error, "install it for this Python: pip install torch")
    if _release(version) < OLDEST_TORCH:
        return Check("torch", "warning", version, "plesio is made for torch {}.{} or newer".format(*OLDEST_TORCH))
    return Check("torch", "ok", f"{version}, {threads} threads")


def cores(usable: int, quota: float | None, threads_asked: str) -> Check:
    """usable: cores that we may run on; quota: cores' worth of time that our container gets; OMP_NUM_THREADS."""
    found = f"{usable} usable" + (f", limited to {quota:g} by the container" if quota is not None else "")
    found += f", OMP_NUM_THREADS={threads_asked}" if threads_asked else ""
    if min(usable, quota or usable) < 2:
        mend = "learner, synchronizer and coordinator share one core here: start one learner on this machine"
        return Check("cores", "warning", found, mend)
    return Check("cores", "ok", found, "plesio runs each learner with one torch thread: one learner a core at most")


def disk(folder: str, free_bytes: int, error: str) -> Check:
    """Where the runs go."""
    if error:
        return Check("disk", "failed", f"{folder}: {error}", "choose a folder that can be written with --runs")
    found = f"{free_bytes / GB:.1f} GB free in {folder}"
    need = "a run keeps three snapshots, each about 5 times the parameters in float32: free some space, or use --runs"
    if free_bytes < GB / 5:
        return Check("disk", "failed", found, need)
    return Check("disk", "warning" if free_bytes < 5 * GB else "ok", found, need if free_bytes < 5 * GB else "")


def open_files(limit: int | None) -> Check:
    """The soft limit; None: no limit is known."""
    if limit is None:
        return Check("open files", "ok", "no limit known")
    if limit < 64:
        return Check("open files", "failed", f"{limit} at most", "raise the limit: ulimit -n 4096")
    few = limit < 1024
    return Check("open files", "warning" if few else "ok", f"{limit} at most", "ulimit -n 4096" if few else "")


def memory(available_bytes: int | None) -> Check:
    """What a new process could take; None: not known on this system."""
    if available_bytes is None:
        return Check("memory", "ok", "how much is free is not known on this system")
    found = f"{available_bytes / GB:.1f} GB available"
    need = "a learner takes some 100 MB for torch, and its parameters several times over: start fewer learners here"
    if available_bytes < GB / 2:
        return Check("memory", "failed", found, need)
    return Check(
        "memory", "warning" if available_bytes < 2 * GB else "ok", found, need if available_bytes < 2 * GB else ""
    )


def clock(unix_s: float) -> Check:
    """Our own, without another to compare it with."""
    if unix_s < A_PAST_UNIX_S:
        return Check("clock", "failed", "it shows a time that is long past", "set the clock, best with NTP")
    return Check("clock", "ok", "it shows a likely time")


# -- the way to a run


def name_resolves(host: str, addresses: list[str], error: str) -> Check:
    """addresses: what it resolves to."""
    if error:
        mend = "use the name or address that the run's machine has in this network"
        return Check("name", "failed", f"{host}: {error}", mend)
    return Check("name", "ok", f"{host} is {', '.join(addresses)}")


def port_reachable(what: str, host: str, port: int, error: BaseException | None) -> Check:
    """error: how connecting ended, if it failed."""
    name, where = f"{what} port", f"{host}:{port}"
    if error is None:
        return Check(name, "ok", f"{where} takes connections")
    code = error.errno if isinstance(error, OSError) else None
    if isinstance(error, ConnectionRefusedError) or code == errno.ECONNREFUSED:
        mend = (
            "nobody listens there: is the run under way, started with --listen 0.0.0.0:PORT (not 127.0.0.1), and is this "
            "its PORT (the synchronizer has PORT + 1)?"
        )
        return Check(name, "failed", f"{where} refuses connections", mend)
    if isinstance(error, TimeoutError) or code in (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH):
        mend = f"open TCP port {port} in the firewall of the run's machine, and see whether this is its address"
        return Check(name, "failed", f"{where} does not answer", mend)
    return Check(name, "failed", f"{where}: {error or type(error).__name__}", "see whether this is the run's address")


def greeted(what: str, error: BaseException | None) -> list[Check]:
    """Of a connection that stands: does the other side speak our protocol, and take our token?"""
    protocol, token = f"{what} protocol", f"{what} token"
    if error is None:
        return [Check(protocol, "ok", "the same version"), Check(token, "ok", "accepted")]
    if isinstance(error, TokenRefused):
        mend = "copy the token file from the run's machine (RUN/token, or its --token-file)"
        return [Check(protocol, "ok", "the same version"), Check(token, "failed", "refused", mend)]
    if isinstance(error, TlsRefused):
        return [Check(f"{what} TLS", "failed", str(error), "give --tls as the run was given it")]
    if isinstance(error, ProtocolRefused):
        return [Check(protocol, "failed", str(error), "install the same plesio on both machines")]
    mend = "is this the port of a plesio run, and does the run go on? See its logs/coordinator.log"
    return [Check(protocol, "failed", str(error) or "no answer in time", mend)]


def token_file(error: str) -> Check:
    """error: why there is none to use."""
    if error:
        return Check("token file", "failed", error)
    return Check("token file", "ok", "readable by you alone")


def no_token() -> Check:
    """Only the ports can be looked at."""
    mend = "copy it from the run's machine and name it with --token-file, to check token, versions, clock and speed"
    return Check("token file", "warning", "none given", mend)


def advertised(host: str, told: tuple[str, int] | None) -> Check:
    """told: where the coordinator says that the synchronizer listens; None: not yet. host: where we found the run."""
    name = "advertised address"
    if told is None:
        return Check(name, "warning", "the synchronizer has not said where it listens", "try again in some seconds")
    where = "{}:{}".format(*told)
    if is_any(told[0]):
        return Check(name, "ok", f"{where}: all addresses of the run's machine; learners use {host}:{told[1]}")
    if is_loopback(told[0]) and not is_loopback(host):
        mend = "only the run's own machine reaches that: start it with --listen 0.0.0.0:PORT"
        return Check(name, "failed", where, mend)
    return Check(name, "ok", where)


def plesio_version(here: str, there: str) -> Check:
    """Of the package."""
    if here != there:
        mend = f"install the same on both machines: pip install plesio=={there} here"
        return Check("plesio version", "failed", f"{here} here, {there} there", mend)
    return Check("plesio version", "ok", f"{here} on both sides")


def cannot_probe(error: BaseException) -> Check:
    """The run took us in, and did not answer questions."""
    mend = (
        "is it an older plesio? Install the same on both machines; or the run is just ending or restarting: try again"
    )
    return Check("plesio version", "failed", str(error) or "no answer in time", mend)


def direction() -> Check:
    """Why nothing is tried the other way."""
    found = "from here to the run only: nothing connects to this machine, so it needs no open port"
    return Check("direction", "ok", found)


def clock_skew(ahead_s: float, error_s: float) -> Check:
    """How far the run's clock is ahead of ours, give or take the error."""
    way = "ahead of" if ahead_s >= 0 else "behind"
    found = f"the run's is {abs(ahead_s):.3f} s {way} ours, give or take {error_s:.3f} s"
    if abs(ahead_s) - error_s > 1.0:
        mend = "training does not depend on clocks, but times in logs and traces will not line up: set both with NTP"
        return Check("clock skew", "warning", found, mend)
    return Check("clock skew", "ok", found)


def latency(link: Link) -> Check:
    """The median round trip."""
    found = f"{link.round_trip_s * 1e3:.1f} ms there and back (median; at most {link.round_trip_max_s * 1e3:.1f} ms)"
    if link.round_trip_s > 0.2:
        mend = "every step of --strategy sync waits for at least one of these; decoupled works meanwhile"
        return Check("latency", "warning", found, mend)
    return Check("latency", "ok", found)


def bandwidth(way: str, bytes_per_s: float) -> Check:
    """way: 'to the run' or 'from the run'."""
    found = f"at least {bytes_per_s / MB:.1f} MB/s"
    if bytes_per_s < MB:
        seconds = 100 * MB / max(bytes_per_s, 1)
        mend = f"100 million parameters in int8 take {seconds:.0f} s: use --codec int8 and a large --every"
        return Check(f"bandwidth {way}", "warning", found, mend)
    return Check(f"bandwidth {way}", "ok", found)


# -- helpers of the above


def _release(version: str) -> tuple[int, ...]:
    parts = version.partition("+")[0].split(".")[:2]
    return tuple(int(part) for part in parts if part.isdigit())


def is_any(host: str) -> bool:
    """All addresses of a machine?"""
    return host in ("0.0.0.0", "::", "")  # noqa: S104  it is compared, not bound


def is_loopback(host: str) -> bool:
    """Does only the machine itself reach it?"""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def words(error: BaseException) -> str:
    """An error of the network, in words."""
    if isinstance(error, socket.gaierror):
        return "this name is not known"
    return str(error) or "no answer in time"
