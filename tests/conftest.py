"""What takes longest begins first, so that nobody waits for it at the end; commands typed without a process of their own."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels for GPUs run as Python: read when triton is imported, by whomever


with contextlib.suppress(ImportError):  # the Python of `make test-gpu` need not have it
    from hypothesis import HealthCheck, settings

    # how long an example takes, or is made, says how much this machine has to do, and nothing of what is tested
    settings.register_profile("plesio", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("plesio")


@pytest.fixture
def typed_in(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """typed_in(folder, *words, code=0): `plesio WORDS` there: what `--json` says, else its stdout, or its stderr."""
    from plesio.cli.main import main

    def type_in(folder: Path, *words: str, code: int = 0) -> Any:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["plesio", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = capfd.readouterr()
        assert (end.value.code or 0) == code, said.err
        return said.err if code else json.loads(said.out) if "--json" in words else said.out

    return type_in


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By the time that a test is allowed; else as they are."""
    items.sort(key=_allowed_s, reverse=True)


def _allowed_s(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker is not None and marker.args else 0.0
