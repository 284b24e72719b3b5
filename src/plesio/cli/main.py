"""The `plesio` command. Thin: it reads options, and hands over."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Optional

import typer

from plesio.errors import PlesioError

app = typer.Typer(
    help="Train models on machines that do not wait for each other.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ScriptArgs = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}


@app.command(context_settings=ScriptArgs)
def run(
    context: typer.Context,
    script: Annotated[Path, typer.Argument(help="Your training script; what follows it is passed on to it.")],
    learners: Annotated[int, typer.Option(help="Processes that train.", min=1)] = 2,
    strategy: Annotated[str, typer.Option(help="decoupled (local steps, quorum) or sync (every step).")] = "decoupled",
    codec: Annotated[Optional[str], typer.Option(help="none, bf16, fp16, int8. Default: int8; sync: none.")] = None,
    every: Annotated[int, typer.Option(help="Steps between two pushes (H).", min=1)] = 32,
    start_rounds: Annotated[int, typer.Option(help="Synchronous rounds before the local steps.", min=0)] = 60,
    until_tokens: Annotated[Optional[int], typer.Option(help="Stop at so many committed tokens.", min=1)] = None,
    epochs: Annotated[Optional[int], typer.Option(help="Deal the data so many times.", min=1)] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    name: Annotated[Optional[str], typer.Option(help="Name of this run. Default: date and time.")] = None,
    listen: Annotated[str, typer.Option(help="Where the coordinator listens, HOST:PORT; port 0: any.")] = "127.0.0.1:0",
    slow: Annotated[str, typer.Option(help="For trying out: 'learner-2=3' makes it 3 times as slow.")] = "",
    chaos: Annotated[str, typer.Option(help="For trying out: 'kill learner-1 at 30s; kill coordinator at 60s'.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="summary.json on stdout, the rest on stderr.")] = False,
) -> None:
    """Train SCRIPT with several learners on this machine; kills, stragglers and restarts lose nothing.

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
    launch.execute(spec, runs / spec.run, listen, slow, chaos, as_json, resume=False)


@app.command()
def resume(
    run_dir: Annotated[Path, typer.Argument(help="The run's folder, e.g. runs/20261121-093000.")],
    listen: Annotated[str, typer.Option(help="Where the coordinator listens, HOST:PORT.")] = "127.0.0.1:0",
    as_json: Annotated[bool, typer.Option("--json", help="summary.json on stdout, the rest on stderr.")] = False,
) -> None:
    """Go on with a run after everything was stopped or killed."""
    from plesio.cli import launch

    launch.execute(launch.read_spec(run_dir), run_dir, listen, "", "", as_json, resume=True)


@app.command()
def log(run_dir: Annotated[Path, typer.Argument(help="The run's folder.")]) -> None:
    """What happened, one line a fact."""
    from plesio.reporting.log import lines

    _must_be_run(run_dir)
    for line in lines(run_dir):
        print(line)


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="The run's folder.")]) -> None:
    """Write summary.json and report.html anew from what the run left."""
    from plesio.reporting.report import write_report
    from plesio.reporting.summary import write_summary

    _must_be_run(run_dir)
    write_summary(run_dir)
    print(write_report(run_dir))


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
