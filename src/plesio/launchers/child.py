"""A started process's first steps, the same for a fork of the zygote and for a fresh interpreter.

`die_with_parent`, `enter` (environment, folder, log), `run`. As a program
(`python -m plesio.launchers.child PARENT_PID JOB`) it is the fresh interpreter; JOB carries no
environment. Its secrets come through stdin: the system shows a process's arguments, and what its environment was
when it began.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from plesio.launchers import logs
from plesio.launchers.base import SOCKETS_VARIABLE, ProcessSpec

_PR_SET_PDEATHSIG = 1


class Job(msgspec.Struct, frozen=True):
    """A spec and what the launcher adds to it: absolute paths on this machine."""

    spec: ProcessSpec
    cwd: str
    log: str


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel SIGKILL this process when the parent's starting thread ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it ended before the line above
        os._exit(1)


def enter(job: Job) -> None:
    """Take on the job's log, environment, folder and arguments."""
    spec = job.spec
    _log_to(job.log)
    os.environ.update(spec.env | spec.secrets)
    os.environ[SOCKETS_VARIABLE] = ",".join(f"{name}={fd}" for name, fd in spec.sockets.items())
    for descriptor in spec.sockets.values():
        os.set_inheritable(descriptor, False)  # ours alone, not our children's
    os.chdir(job.cwd)
    sys.argv = [spec.script or spec.target, *spec.argv]


def run(job: Job) -> None:
    """Run the target or the script. An exception of it goes to the log and to `<log>.error`, then exit 1.

    Returns or raises SystemExit, so that the interpreter ends the usual way: threads, atexit, stdio.
    """
    script = os.path.abspath(job.spec.script) if job.spec.script else ""
    try:
        if script:
            sys.path.insert(0, os.path.dirname(script))
            runpy.run_path(script, run_name="__main__")
        else:
            module, _, function = job.spec.target.partition(":")
            getattr(importlib.import_module(module), function)()
    except Exception as error:  # a process edge: what nobody caught is written down
        trace = _without_our_frames(error.__traceback__)
        traceback.print_exception(type(error), error, trace)
        _write_error(job.log + ".error", error, trace, script)
        raise SystemExit(1) from None


def _log_to(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + ".error")  # an earlier process's
    logs.rotate(Path(path))
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    sys.stdout, sys.stderr = _stream(1, "strict"), _stream(2, "backslashreplace")


def _stream(descriptor: int, errors: str) -> io.TextIOWrapper:
    """By lines: a killed process loses none."""
    raw = _Log(descriptor, "wb", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors=errors, line_buffering=True)


class _Log(io.FileIO):
    """A log that its disk takes no more of loses what is printed: `print` must not end a training script."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _without_our_frames(trace: TracebackType | None) -> TracebackType | None:
    whole = trace
    while trace and trace.tb_frame.f_code.co_filename in (__file__, runpy.__file__, "<frozen runpy>"):
        trace = trace.tb_next
    return trace or whole


def _write_error(path: str, error: Exception, trace: TracebackType | None, script: str) -> None:
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno
    else:
        frames = traceback.extract_tb(trace)
        frame = [frame for frame in frames if frame.filename == script or not script][-1:] or frames[-1:]
        file, line = (frame[0].filename, frame[0].lineno) if frame else (script, None)
    record = {"type": type(error).__name__, "message": str(error), "file": file, "line": line}
    with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as out:
        out.write(json.dumps(record) + "\n")


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    job = msgspec.json.decode(sys.argv[2], type=Job)
    secrets = msgspec.json.decode(sys.stdin.buffer.read(), type=dict[str, str])
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    job = msgspec.structs.replace(job, spec=msgspec.structs.replace(job.spec, secrets=secrets))
    enter(job)
    run(job)


if __name__ == "__main__":
    main()
