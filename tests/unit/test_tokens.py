"""Token files: made once, readable by their owner only, and never quoted in an error."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from plesio.errors import UserError
from plesio.wire import tokens


def test_a_missing_file_is_made_for_its_owner_only_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "token"
    made = tokens.read_or_make(path)
    assert len(made) == 32 and tokens.read_or_make(path) == tokens.read(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("content", "mode", "hint"),
    [
        (b"0123456789abcdef0123456789abcdef\n", 0o644, "chmod 600"),
        (b"short\n", 0o600, "16 or more"),
        ("0123456789abcdef\u00e9".encode(), 0o600, "printable"),
        (b"\xff\xfe0123456789abcdef", 0o600, "cannot read"),
    ],
)
def test_a_bad_file_is_named_with_the_mend(content: bytes, mode: int, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(UserError, match=hint) as caught:
        tokens.read(path)
    assert "0123456789" not in str(caught.value)


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="copy it"):
        tokens.read(tmp_path / "none")
    with pytest.raises(UserError, match="choose another"):
        tokens.read_or_make(tmp_path / "no" / "folder")
