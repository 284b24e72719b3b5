"""A virtual environment for each peer, outside the repository: made on the first use, and again when its pins change.

A peer's script imports nothing but the standard library until `enter` has replaced its process by the environment's
Python, so that any Python can start it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "plesio-bench"
MADE = "pins.txt"  # written last: without it, the environment is not whole


def make(directory: Path, pins: tuple[str, ...]) -> None:
    """Does nothing where the same pins are installed already. Raises CalledProcessError."""
    wanted = "\n".join(pins) + "\n"
    made = directory / MADE
    if made.exists() and made.read_text() == wanted:
        return
    print(f"making {directory} with {' '.join(pins)}", file=sys.stderr, flush=True)
    made.unlink(missing_ok=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True, stdout=sys.stderr)
    pip = [str(directory / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", *pins]
    subprocess.run(pip, check=True, stdout=sys.stderr)
    made.write_text(wanted)


def enter(directory: Path, pins: tuple[str, ...]) -> None:
    """Goes on in the environment's Python: returns in that one only, the same script with the same arguments."""
    python = directory.absolute() / "bin" / "python"
    if Path(sys.prefix).absolute() == directory.absolute():
        return
    make(directory, pins)
    os.execv(python, [str(python), *sys.argv])
