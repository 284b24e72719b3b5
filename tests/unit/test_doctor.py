"""The verdicts of `plesio doctor`, each from injected conditions; and what it reads from this machine."""

from __future__ import annotations

import errno
import json
import socket
from pathlib import Path

import msgspec
import pytest

from plesio.cli import checks as c
from plesio.cli import doctor
from plesio.errors import ProtocolRefused, TokenRefused, WireError
from plesio.runtime.probe import Exchange, Link, bytes_per_s, clock_ahead_s
from plesio.wire.messages import Probed

GB = 10**9
LINK = Link(
    round_trip_s=0.01,
    round_trip_max_s=0.02,
    clock_ahead_s=0.0,
    clock_error_s=0.005,
    up_bytes_per_s=5e7,
    down_bytes_per_s=5e7,
)


@pytest.mark.parametrize(
    ("check", "state"),
    [
        (c.python((3, 11, 0)), "ok"),
        (c.python((3, 10, 9)), "failed"),
        (c.torch("2.13.0+cpu", 2, ""), "ok"),
        (c.torch("2.3.1", 2, ""), "warning"),
        (c.torch("", 0, "cannot be imported: no"), "failed"),
        (c.cores(8, None, ""), "ok"),
        (c.cores(8, 1.5, "1"), "warning"),
        (c.cores(1, None, ""), "warning"),
        (c.disk("runs", 50 * GB, ""), "ok"),
        (c.disk("runs", GB, ""), "warning"),
        (c.disk("runs", GB // 100, ""), "failed"),
        (c.disk("runs", 0, "cannot be written"), "failed"),
        (c.open_files(None), "ok"),
        (c.open_files(4096), "ok"),
        (c.open_files(256), "warning"),
        (c.open_files(20), "failed"),
        (c.memory(None), "ok"),
        (c.memory(8 * GB), "ok"),
        (c.memory(GB), "warning"),
        (c.memory(GB // 10), "failed"),
        (c.clock(1.8e9), "ok"),
        (c.clock(0.0), "failed"),
        (c.name_resolves("here", ["127.0.0.1"], ""), "ok"),
        (c.name_resolves("nowhere", [], "this name is not known"), "failed"),
        (c.port_reachable("coordinator", "h", 1, None), "ok"),
        (c.port_reachable("coordinator", "h", 1, ConnectionRefusedError()), "failed"),
        (c.token_file(""), "ok"),
        (c.token_file("others may read it"), "failed"),
        (c.no_token(), "warning"),
        (c.advertised("trainer", None), "warning"),
        (c.advertised("trainer", ("0.0.0.0", 2)), "ok"),
        (c.advertised("trainer", ("127.0.0.1", 2)), "failed"),
        (c.advertised("127.0.0.1", ("127.0.0.1", 2)), "ok"),
        (c.advertised("localhost", ("127.0.0.1", 2)), "ok"),
        (c.advertised("trainer", ("10.0.0.5", 2)), "ok"),
        (c.plesio_version("0.1", "0.1"), "ok"),
        (c.plesio_version("0.1", "0.2"), "failed"),
        (c.cannot_probe(TimeoutError()), "failed"),
        (c.direction(), "ok"),
        (c.clock_skew(0.9, 0.01), "ok"),
        (c.clock_skew(-3.0, 0.01), "warning"),
        (c.clock_skew(3.0, 4.0), "ok"),
        (c.latency(LINK), "ok"),
        (c.bandwidth("to the run", 5e7), "ok"),
        (c.bandwidth("to the run", 1e5), "warning"),
    ],
)
def test_each_condition_has_its_verdict(check: c.Check, state: str) -> None:
    assert check.state == state, check
    assert check.found
    if state != "ok" and check.name != "token file":
        assert check.mend, "it says what to do"


def test_a_slow_link_is_told_what_hides_it() -> None:
    slow = c.latency(msgspec.structs.replace(LINK, round_trip_s=0.5))
    assert slow.state == "warning" and "decoupled" in slow.mend


@pytest.mark.parametrize(
    ("error", "words", "mend"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "refuses", "--listen"),
        (TimeoutError(), "does not answer", "firewall"),
        (OSError(errno.EHOSTUNREACH, "no route"), "does not answer", "firewall"),
        (OSError("Multiple exceptions"), "Multiple exceptions", "address"),
    ],
)
def test_a_port_that_cannot_be_reached_says_why(error: OSError, words: str, mend: str) -> None:
    check = c.port_reachable("coordinator", "trainer", 7700, error)
    assert check.state == "failed" and words in check.found and "trainer:7700" in check.found and mend in check.mend


@pytest.mark.parametrize(
    ("error", "states", "mend"),
    [
        (None, ["ok", "ok"], ""),
        (TokenRefused(), ["ok", "failed"], "copy the token file"),
        (
            ProtocolRefused("protocol version 1 is not 2; install the same plesio everywhere"),
            ["failed"],
            "the same plesio",
        ),
        (WireError("it does not answer as plesio does"), ["failed"], "a plesio run"),
        (TimeoutError(), ["failed"], "a plesio run"),
    ],
)
def test_a_greeting_tells_protocol_and_token_apart(error: Exception | None, states: list[str], mend: str) -> None:
    checks = c.greeted("coordinator", error)
    assert [check.state for check in checks] == states and mend in checks[-1].mend


def exchange(elapsed_s: float, ahead_s: float = 0.0, up: int = 0, share: float = 0.5) -> Exchange:
    """share: of the elapsed time after which it was answered."""
    return Exchange(Probed(1, 1000.0 + share * elapsed_s + ahead_s, "0", "r", None), 1000.0, elapsed_s, up, 0)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_the_skew_lies_within_its_error_however_lopsided_the_way(share: float) -> None:
    trips = [exchange(0.8, -7.5, share=share), exchange(0.2, -7.5, share=share)]
    ahead_s, error_s = clock_ahead_s(trips)
    assert error_s == pytest.approx(0.1) and abs(ahead_s + 7.5) <= error_s + 1e-9


def test_bandwidth_comes_from_the_largest_probes_without_the_round_trip() -> None:
    probes = [exchange(0.1, up=1000), exchange(0.3, up=2000), exchange(0.5, up=2000)]
    assert bytes_per_s(probes, 0.1) == pytest.approx(4000 / 0.6)
    assert bytes_per_s([exchange(0.1, up=1000)], 0.5) == pytest.approx(1000 / 0.01), "never less than no time"


def test_what_the_machine_says_is_read(tmp_path: Path) -> None:
    assert doctor.usable_cores() >= 1 and (doctor.file_limit() or 1) > 0
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert doctor.container_cores(tmp_path / "cpu.max") == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert doctor.container_cores(tmp_path / "cpu.max") is None
    assert doctor.container_cores(tmp_path / "none") is None

    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    1000 kB\n")
    assert doctor.available_memory(tmp_path / "meminfo", tmp_path) == 1_024_000
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert doctor.available_memory(tmp_path / "meminfo", tmp_path) == 3000
    assert doctor.available_memory(tmp_path / "none", tmp_path / "none") is None


def test_the_disk_is_that_of_the_folder_that_runs_would_be_made_in(tmp_path: Path) -> None:
    folder, free, error = doctor.free_disk(tmp_path / "not" / "yet")
    assert folder == str(tmp_path) and free > 0 and not error
    (tmp_path / "file").write_text("")
    assert doctor.free_disk(tmp_path / "file" / "runs")[2] == "is not a folder"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("import json; print('noise'); print(json.dumps(['2.9', 3]))", ("2.9", 3, "")),
        ("raise ImportError('libgomp is missing')", ("", 0, "cannot be imported: ImportError: libgomp is missing")),
        ("import os; os.abort()", ("", 0, "cannot be imported: it ended with code -6")),
    ],
)
def test_a_torch_that_breaks_breaks_only_its_own_process(
    question: str, answer: tuple[str, int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "ASK_TORCH", question)
    assert doctor.ask_torch() == answer


@pytest.mark.parametrize("as_json", [False, True])
def test_what_failed_is_told_and_makes_it_false(
    as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "ask_torch", lambda: ("", 0, "cannot be imported"))
    assert doctor.examine(None, None, tmp_path, as_json) is False
    said = capsys.readouterr().out
    if as_json:
        told = json.loads(said)
        assert told["ok"] is False and told["measured"] is None
        assert [x["name"] for x in told["checks"] if x["state"] == "failed"] == ["torch"]
    else:
        assert "FAILED   torch: cannot be imported\n         install it" in said


def test_errors_of_the_network_are_put_in_words() -> None:
    assert c.words(socket.gaierror(-2, "Name or service not known")) == "this name is not known"
    assert c.words(TimeoutError()) == "no answer in time"
