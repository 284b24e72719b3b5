"""While a function is imported its task is not stopped, and afterwards signals are whose they were."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from plesio.runtime import functions

NUMBERS = (signal.SIGUSR1, signal.SIGALRM)


class Stop(BaseException):
    """Of a task."""


def stop(*_: Any) -> None:
    raise Stop


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = [signal.signal(number, stop) for number in NUMBERS]
    yield
    for number, handler in zip(NUMBERS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_waits_for_the_end_of_an_import(number: signal.Signals) -> None:
    imported = False
    with pytest.raises(Stop), functions._whole():
        signal.raise_signal(number)
        imported = True
    assert imported
    assert [signal.getsignal(each) for each in NUMBERS] == [stop, stop]


@pytest.mark.parametrize("after", range(1, 5), ids=["begins", "began", "ends", "ended"])
@pytest.mark.parametrize("number", NUMBERS)
def test_one_that_comes_as_an_import_begins_or_ends_leaves_no_handler_of_ours(
    number: signal.Signals, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come between any two changes of handlers."""
    changes, change = 0, signal.signal

    def changing(*arguments: Any) -> Any:
        nonlocal changes
        found, changes = change(*arguments), changes + 1
        if changes == after:
            signal.raise_signal(number)
        return found

    monkeypatch.setattr(functions.signal, "signal", changing)
    with pytest.raises(Stop), functions._whole():
        pass
    monkeypatch.undo()
    assert [signal.getsignal(each) for each in NUMBERS] == [stop, stop]
