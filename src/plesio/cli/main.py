"""The `plesio` command. Thin: it reads options, and hands over."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperCommand

from plesio.cli import bench, codecs, locks, map, pool, queue, tasks
from plesio.cli import runs as training
from plesio.cli.options import TLS_HELP
from plesio.errors import PlesioError, UserError

app = typer.Typer(
    help="Train models on machines that do not wait for each other.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
LISTEN_HELP = "HOST:PORT of the coordinator (the synchronizer takes PORT + 1). 0.0.0.0:7700: other machines may join."
STRATEGY_HELP = (
    "decoupled (local steps, quorum), localsgd or diloco (local steps, all wait), sync (every step), async (parameter "
    "server); with settings: 'decoupled(every=16, k=2)'; one after the other: 'sync until tokens=200k; decoupled'."
)
TENSORBOARD_HELP = "Write TensorBoard event files to RUN/tensorboard; needs plesio[tensorboard]."
KEEP_HELP = "Keep so many of the newest snapshots, and a few older ones spread over the run."
TOKEN_HELP = "File with the run's token; made when it is missing. Default with --listen: RUN/token."
ON_HELP = "HOST:PORT of a pool (with its --token-file), or the folder of one on this machine."
ScriptArgs = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}


@app.command(context_settings=ScriptArgs)
def run(
    context: typer.Context,
    script: Annotated[Path, typer.Argument(help="Your training script; what follows it is passed on to it.")],
    learners: Annotated[int, typer.Option(help="Processes that train.", min=1)] = 2,
    strategy: Annotated[str, typer.Option(help=STRATEGY_HELP)] = "decoupled",
    codec: Annotated[
        Optional[str], typer.Option(help="none, bf16, fp16, int8. Default: int8; sync, async: none.")
    ] = None,
    every: Annotated[Optional[int], typer.Option(help="Steps between two pushes (H). Default: 32.", min=1)] = None,
    start_rounds: Annotated[
        Optional[int], typer.Option(help="Synchronous rounds at first, when the strategy is one. decoupled: 60.", min=0)
    ] = None,
    until_tokens: Annotated[Optional[int], typer.Option(help="Stop at so many committed tokens.", min=1)] = None,
    epochs: Annotated[Optional[int], typer.Option(help="Deal the data so many times.", min=1)] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    name: Annotated[Optional[str], typer.Option(help="Name of this run. Default: date and time.")] = None,
    listen: Annotated[str, typer.Option(help=LISTEN_HELP)] = "127.0.0.1:0",
    token_file: Annotated[Optional[Path], typer.Option(help=TOKEN_HELP)] = None,
    tls: Annotated[Optional[str], typer.Option(help=TLS_HELP)] = None,
    slow: Annotated[str, typer.Option(help="For trying out: 'learner-2=3' makes it 3 times as slow.")] = "",
    chaos: Annotated[str, typer.Option(help="For trying out: 'kill learner-1 at 30s; kill coordinator at 60s'.")] = "",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help=TENSORBOARD_HELP)] = False,
    keep_snapshots: Annotated[int, typer.Option(help=KEEP_HELP, min=1)] = 3,
    on: Annotated[Optional[str], typer.Option(help=ON_HELP)] = None,
    priority: Annotated[int, typer.Option(help="With --on: higher ones have slots first; lower ones leave theirs.")] = 0,
    require: Annotated[
        Optional[list[str]], typer.Option(help="With --on: a tag of the learners' workers, e.g. gpu=1. Repeat.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="With --on: hand it in, and do not follow it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="summary.json on stdout, the rest on stderr.")] = False,
) -> None:
    """Train SCRIPT with several learners on this machine; kills, stragglers and restarts lose nothing.

    With --on the learners are on a pool's workers, beside its other tasks; the folder we are in travels there.
    Example: plesio run --learners 3 --until-tokens 1000000 examples/gpt.py --batch 8
    """
    from plesio.cli import launch

    spec = launch.make_spec(
        script=script,
        argv=tuple(context.args),
        learners=learners,
        strategy=strategy,
        codec=codec,
        every=every,
        start_rounds=start_rounds,
        until_tokens=until_tokens,
        epochs=epochs,
        name=name or time.strftime("%Y%m%d-%H%M%S"),
    )
    if on is not None:
        unused = {"--listen": listen != "127.0.0.1:0", "--slow": slow, "--chaos": chaos, "--tensorboard": tensorboard}
        if wrong := [option for option, given in unused.items() if given]:
            raise UserError(f"{', '.join(wrong)}: not with --on")
        training.start(spec, script, on, token_file, tls, priority, require, detach, as_json)
        return
    options = launch.Options(
        listen=listen, token_file=token_file, tls=tls, slow=slow, chaos=chaos, tensorboard=tensorboard,
        keep_snapshots=keep_snapshots, as_json=as_json,
    )  # fmt: skip
    launch.execute(spec, runs / spec.run, options, resume=False)


class AddressFirst(TyperCommand):
    """`plesio join HOST:PORT --options script.py args`: options between the two, and the script's args left alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click."""
        if args and not args[0].startswith("-"):
            args = ["--run", *args]
        return super().parse_args(ctx, args)


@app.command(context_settings=ScriptArgs, cls=AddressFirst)
def join(
    context: typer.Context,
    address: Annotated[str, typer.Option("--run", help="HOST:PORT that the run listens on; may be said first, bare.")],
    script: Annotated[Path, typer.Argument(help="The same training script; what follows it is passed on to it.")],
    token_file: Annotated[Path, typer.Option(help="A copy of the run's token file.")],
    tls: Annotated[Optional[str], typer.Option(help=TLS_HELP)] = None,
    learners: Annotated[int, typer.Option(help="Processes that train here.", min=1)] = 1,
    name: Annotated[Optional[str], typer.Option(help="Name of these learners. Default: the host's name.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder for the logs.")] = Path("runs"),
) -> None:
    """Take part, with SCRIPT on this machine, in a run that is under way elsewhere.

    Ctrl-C or SIGTERM (a preemption notice) makes it leave, with its work counted.
    Example: plesio join trainer:7700 --token-file token train.py
    """
    from plesio.cli import launch

    launch.take_part(address, token_file, script, tuple(context.args), learners, name, runs, tls)


@app.command()
def resume(
    run_dir: Annotated[Path, typer.Argument(help="The run's folder, e.g. runs/20261121-093000.")],
    listen: Annotated[str, typer.Option(help=LISTEN_HELP)] = "127.0.0.1:0",
    token_file: Annotated[Optional[Path], typer.Option(help=TOKEN_HELP)] = None,
    tls: Annotated[Optional[str], typer.Option(help=TLS_HELP)] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help=TENSORBOARD_HELP)] = False,
    keep_snapshots: Annotated[int, typer.Option(help=KEEP_HELP, min=1)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="summary.json on stdout, the rest on stderr.")] = False,
) -> None:
    """Go on with a run after everything was stopped or killed."""
    from plesio.cli import launch

    options = launch.Options(
        listen=listen, token_file=token_file, tls=tls, tensorboard=tensorboard, keep_snapshots=keep_snapshots,
        as_json=as_json,
    )  # fmt: skip
    launch.execute(launch.read_spec(run_dir), run_dir, options, resume=True)


@app.command()
def log(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, or of a pool.")],
    task: Annotated[Optional[str], typer.Option(help="Of a pool: what happened to this task, e.g. 3-17.")] = None,
    at: Annotated[Optional[str], typer.Option(help="Of a pool: what happened at 14:03, 14:03:20, '2026-11-21 14'.")] = None,
) -> None:
    """What happened, one line a fact.

    Example: plesio log runs/pool --task 3-17
    """
    _must_be_run(folder)
    if (folder / "events.jsonl").exists():
        if task or at:
            raise typer.BadParameter("--task and --at are for the folder of a pool")
        from plesio.reporting.log import lines

        for line in lines(folder):
            print(line)
    else:
        from plesio.cli.poollog import show

        show(folder, task, at)


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="The run's folder.")]) -> None:
    """Write summary.json, trace.json and report.html anew from what the run left."""
    from plesio.reporting.report import write_report
    from plesio.reporting.summary import summary_of, write_summary

    _must_be_run(run_dir)
    write_summary(run_dir, summary_of(run_dir))
    print(write_report(run_dir))


@app.command()
def top(
    target: Annotated[
        Optional[str], typer.Argument(help="HOST:PORT, or a run's folder. Default: the newest run here.")
    ] = None,
    token_file: Annotated[Optional[Path], typer.Option(help="A copy of the run's token file, for HOST:PORT.")] = None,
    tls: Annotated[Optional[str], typer.Option(help=TLS_HELP)] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per update.")] = False,
    once: Annotated[bool, typer.Option("--once", help="One update, then exit.")] = False,
) -> None:
    """The live table of a run, from anywhere: until it is finished, or Ctrl-C. It changes nothing.

    Example: plesio top trainer:7700 --token-file token
    """
    from plesio.cli import top as looking

    looking.show(target, token_file, runs, as_json, once, tls)


@app.command()
def doctor(
    address: Annotated[Optional[str], typer.Argument(help="HOST:PORT of a run, to check the way to it too.")] = None,
    token_file: Annotated[Optional[Path], typer.Option(help="A copy of the run's token file.")] = None,
    tls: Annotated[Optional[str], typer.Option(help=TLS_HELP)] = None,
    runs: Annotated[Path, typer.Option(help="Folder that runs would go to.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check this machine, and the way from here to a run: what is wrong, and what to do. Code 1 when something failed.

    Example: plesio doctor trainer:7700 --token-file token
    """
    from plesio.cli import doctor as examining
    from plesio.cli.options import read_address

    where = None if address is None else read_address(address, "the address")
    if not examining.examine(where, token_file, runs, as_json, tls):
        raise typer.Exit(1)


@app.command()
def cert(
    folder: Annotated[Path, typer.Argument(help="Where to write them; made when it is missing.")],
    host: Annotated[Optional[list[str]], typer.Option(help="A machine to run on: its name or address. Repeat.")] = None,
    node: Annotated[Optional[list[str]], typer.Option(help="A machine that joins: any name. Repeat.")] = None,
    days: Annotated[int, typer.Option(help="Days until they expire.", min=1, max=3650)] = 90,
) -> None:
    """Make a throw-away CA and certificates for --tls, and say what to copy where.

    Example: plesio cert certs --host trainer --node gpu1 --node gpu2
    """
    from plesio.cli.cert import make

    make(folder, host or [], node or [], days)


for command in (pool.up, pool.worker, pool.submit, map.map_, locks.locks):
    app.command(name=command.__name__.rstrip("_"))(command)
app.add_typer(tasks.app, name="tasks")
app.add_typer(training.app, name="runs")
app.add_typer(queue.app, name="queue")
app.add_typer(bench.app, name="bench")
app.add_typer(codecs.app, name="codecs")


def _must_be_run(run_dir: Path) -> None:
    from plesio.errors import UserError

    if not (run_dir / "journal.db").exists():
        raise UserError(f"{run_dir} is not a run's folder (it has no journal.db); see `ls runs`")


def main() -> None:
    """Entry point: one clear line for an error, a traceback only with --debug."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        app(args=arguments, prog_name="plesio", standalone_mode=True)
    except PlesioError as error:
        if debug:
            raise
        print(f"plesio: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if debug:
            raise
        print(f"plesio: {error.filename or ''}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
