"""The token of a run, in a file that only its owner may read. Never in arguments, logs or the journal."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from plesio.errors import UserError

LEAST_CHARACTERS = 16


def read_or_make(path: Path) -> str:
    """The token in this file; a new one when there is no file. Raises UserError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read(path)
    except OSError as error:
        raise UserError(f"cannot write the token file {path}: {error.strerror}; choose another --token-file") from error
    with os.fdopen(descriptor, "w") as file:
        token = secrets.token_hex(16)
        file.write(token + "\n")
    return token


def keep(path: Path, token: str) -> None:
    """Writes the token that is known to this file, whatever was in it. Raises OSError."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
    temporary.replace(path)


def read(path: Path) -> str:
    """The token in this file. Raises UserError naming the mend, never the token."""
    try:
        token = path.read_text().strip()
        others = stat.S_IMODE(path.stat().st_mode) & 0o077
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the token file {path}: {error}; copy it from the run's machine") from error
    if others:
        raise UserError(f"others on this machine may read the token file {path}; run `chmod 600 {path}`")
    if len(token) < LEAST_CHARACTERS or not token.isascii() or not token.isprintable():
        raise UserError(f"the token file {path} holds no token of {LEAST_CHARACTERS} or more printable characters")
    return token
