"""From options to a run: the specification, the live table, and the words at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import secrets
import socket
import sys
import time
from pathlib import Path

import msgspec

from plesio.cli.coarse import advise
from plesio.cli.options import read_address
from plesio.cli.table import LiveTable
from plesio.core.spec import RunSpec
from plesio.errors import UserError
from plesio.reporting.events import is_finished
from plesio.runtime import faults, snapshots
from plesio.runtime import tensorboard as boards
from plesio.runtime.joiner import Joiner, Joining
from plesio.runtime.supervisor import Plan, Supervisor
from plesio.strategies.text import parse as parse_schedule
from plesio.wire import tokens
from plesio.wire.tls import load as load_tls

SPEC_FILE = "run.json"


def make_spec(
    *,
    script: Path,
    argv: tuple[str, ...],
    learners: int,
    strategy: str,
    codec: str | None,
    every: int | None,
    start_rounds: int | None,
    until_tokens: int | None,
    epochs: int | None,
    name: str,
) -> RunSpec:
    """Checks what the user said. Raises UserError naming the mend."""
    if not script.is_file():
        raise UserError(f"script {str(script)!r} does not exist; give the path of a Python file")
    if "/" in name or name.startswith("."):
        raise UserError(f"run name {name!r} must be a plain folder name")
    schedule = parse_schedule(strategy, every, start_rounds)
    text = codec or ("none" if schedule.phases[-1].strategy.sends == "gradient" else "int8")
    advice = advise(text, schedule)
    if advice.told:
        print(f"plesio: {advice.told}", file=sys.stderr)
    return RunSpec(
        run=name,
        learners=learners,
        schedule=schedule,
        strategy=strategy,
        uplink=text,
        gradient_uplink=advice.gradient_uplink,
        downlink=advice.downlink,
        until_tokens=until_tokens,
        epochs=epochs,
        script=str(script.resolve()),
        argv=argv,
        started_unix_s=time.time(),
    )


def read_spec(run_dir: Path) -> RunSpec:
    """The specification of an earlier run."""
    path = run_dir / SPEC_FILE
    if not path.is_file():
        raise UserError(f"{run_dir} is not a run's folder (it has no {SPEC_FILE}); see `ls runs`")
    return msgspec.json.decode(path.read_bytes(), type=RunSpec)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a run is carried out here; see the command's help."""

    listen: str = "127.0.0.1:0"
    token_file: Path | None = None
    tls: str | None = None
    slow: str = ""
    chaos: str = ""
    tensorboard: bool = False
    keep_snapshots: int = snapshots.DEFAULT.last
    as_json: bool = False


def execute(spec: RunSpec, run_dir: Path, options: Options, *, resume: bool) -> None:
    """Runs it to its end, and says what happened."""
    if not resume and run_dir.exists():
        raise UserError(f"{run_dir} exists already; choose another --name, or `plesio resume {run_dir}`")
    if resume and is_finished(run_dir):
        raise UserError(f"{run_dir} is finished; its model is {run_dir / 'model.safetensors'}; start a new run instead")
    address = read_address(options.listen, "--listen")
    side = load_tls(options.tls, serves=True) if options.tls else None
    slowdowns, planned = read_slowdowns(options.slow, spec.learners), faults.parse(options.chaos, spec.learners)
    if options.tensorboard:
        boards.check_installed()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / SPEC_FILE).write_bytes(msgspec.json.encode(spec))
    except OSError as error:
        mend = "make it writable" if resume else "choose another folder with --runs"
        raise UserError(f"cannot write to {run_dir}: {error.strerror}; {mend}") from error
    token_file = options.token_file
    if token_file is None and address[1]:
        token_file = run_dir / "token"
    token = secrets.token_hex(16) if token_file is None else tokens.read_or_make(token_file)
    plan = Plan(
        spec=spec, run_dir=run_dir, token=token, listen=address, slowdowns=slowdowns, faults=planned,
        keep_snapshots=options.keep_snapshots, tls=side,
    )  # fmt: skip
    table = LiveTable(f"run {spec.run} with {spec.learners} learners, in {run_dir}")
    if address[1]:
        encrypted = " --tls NODE.pem,NODE-key.pem,ca.pem" if options.tls else ""
        how = f"plesio join HOST:{address[1]} --token-file {token_file}{encrypted} {spec.script}"
        table.say(f"others take part with: {how}")
    printed = run_dir / "logs" / "learner-0.log"
    said_before = printed.stat().st_size if printed.exists() else 0
    try:
        with table, boards.following(run_dir) if options.tensorboard else contextlib.nullcontext():
            asyncio.run(Supervisor(plan, table.show, table.say).run())
    finally:
        summary = _leave_report(run_dir)
    _script_output(printed, said_before)
    _last_words(summary, run_dir)
    if options.as_json:
        print(json.dumps(summary))


def take_part(
    address: str,
    token_file: Path,
    script: Path,
    argv: tuple[str, ...],
    learners: int,
    name: str | None,
    runs: Path,
    tls: str | None = None,
) -> None:
    """Joins a run that is under way."""
    coordinator = read_address(address, "the address")
    if not script.is_file():
        raise UserError(f"script {str(script)!r} does not exist; give the path of a Python file")
    name = name or re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) + "-" + secrets.token_hex(2)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,60}", name) or name.startswith("learner"):
        raise UserError(f"--name {name!r} must be letters, digits and dashes, and not begin with 'learner'")
    joining = Joining(
        coordinator=coordinator,
        token=tokens.read(token_file),
        folder=runs / f"joined-{name}",
        names=tuple(f"{name}-{i}" for i in range(learners)) if learners > 1 else (name,),
        script=str(script.resolve()),
        argv=argv,
        tls=load_tls(tls) if tls else None,
    )
    with LiveTable(f"{name} joins {address}; logs in {joining.folder / 'logs'}") as table:
        asyncio.run(Joiner(joining, table.show, table.say).run())


def read_slowdowns(text: str, learners: int) -> dict[str, float]:
    """'learner-2=3,learner-0=1.5': how many times as long a step takes."""
    found = {}
    for name, _, factor in (part.strip().partition("=") for part in text.split(",") if part.strip()):
        if name not in {f"learner-{i}" for i in range(learners)}:
            raise UserError(f"--slow names {name!r}; the learners of this run are learner-0 to learner-{learners - 1}")
        try:
            found[name] = float(factor)
        except ValueError:
            found[name] = 0.0
        if not 1.0 <= found[name] < math.inf:
            raise UserError(f"--slow {name}={factor}: say how many times as long a step takes, e.g. {name}=3")
    return found


def _leave_report(run_dir: Path) -> dict[str, object]:
    """Returns the summary, also when the disk will not take it: what ended the run must not be hidden by that."""
    from plesio.reporting.report import write_report
    from plesio.reporting.summary import summary_of, write_summary

    if not (run_dir / "events.jsonl").exists():
        return {}
    summary = summary_of(run_dir)
    try:
        write_summary(run_dir, summary)
        write_report(run_dir)
    except OSError as error:
        mend = f"when there is room, `plesio report {run_dir}` writes it"
        print(f"plesio: cannot write the report to {run_dir}: {error.strerror}; {mend}", file=sys.stderr)
    return summary


def _script_output(path: Path, said_before: int) -> None:
    """What the script printed on the first learner, this time (`said_before`: bytes of an earlier time)."""
    said = path.read_bytes() if path.exists() else b""
    said_before = said_before if said_before <= len(said) else 0  # the log was rotated
    lines = said[said_before:].decode(errors="replace").splitlines()
    if lines:
        print(f"learner-0 printed (all of it: {path}):", file=sys.stderr)
        print("\n".join(f"  {line}" for line in lines[-40:]), file=sys.stderr)


def _last_words(summary: dict[str, object], run_dir: Path) -> None:
    """What happened, in five lines."""
    if not summary:
        return
    units = summary["units"]
    taking = summary["effective_participants"]
    recoveries = summary["recovery_s"]
    assert isinstance(units, dict) and isinstance(taking, dict) and isinstance(recoveries, list)
    words = [
        f"{summary.get('finished') or 'stopped; resumable'}: {summary['tokens']} tokens committed in "
        f"{float(str(summary['wall_s'])):.0f} s, {summary['rounds']} rounds",
        f"units: {units['applied']} applied, {units['reissued']} dealt again, {units['partial']} partial, "
        f"{units['lost']} lost, {units['duplicated']} duplicated",
        f"faults survived: {summary['faults']}"
        + (f"; slowest recovery {max(recoveries):.1f} s" if recoveries else "")
        + f"; effective participants: {taking['mean']:.1f} on average, {taking['min']} at least",
        f"held-out loss: {_number(summary['val_loss_start'])} -> {_number(summary['val_loss'])}",
        f"report: {run_dir / 'report.html'}   model: {run_dir / 'model.safetensors'}",
    ]
    print("\n".join(words), file=sys.stderr)


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "not measured"
