"""The pool over HTTP, as programs in other languages use it: real processes and sockets, the clients of docs/http.md."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from plesio.cli.cert import make as make_certificates
from plesio.tasks import Client
from plesio.tasks.embedded import attach
from plesio.testing.waiting import wait_for
from plesio.web.events import MOST_LISTENERS

PLESIO = [sys.executable, "-m", "plesio"]
DOCS = Path(__file__).parents[2] / "docs" / "http.md"
WAIT_S = 150.0
JSON = {"Content-Type": "application/json"}
MODULE = """
import time
from pathlib import Path

def echo(*args, **kwargs):
    return [list(args), kwargs] if kwargs else args[0]

def boom(text):
    raise ValueError(text)

def held(gate):
    while not Path(gate).exists():
        time.sleep(0.01)
    return "held"

def once(path):
    if not Path(path).exists():
        Path(path).touch()
        raise RuntimeError("the first time")
    return "the second time"

def odd():
    import numpy as np
    return {"bytes": b"ab", "array": np.array([[1, 2], [3, 4]], "<i2"), "nan": float("nan"), "tuple": (1, 2)}

def large():
    return "x" * (20 << 20)

def strange():
    return 1 << 60, {1: 2}
"""


class Up:
    """`plesio up --http`, in a folder and a session of its own."""

    def __init__(self, cwd: Path, *words: str) -> None:
        self.cwd = cwd
        self.log = cwd / "up.err"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*PLESIO, "up", "--listen", "127.0.0.1:0", "--workers", "1", "--http", "0", "--json", *words],
                cwd=cwd, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        told = json.loads(self.process.stdout.readline() or self.log.read_text())
        self.url: str = told["http"]
        self.token_file = Path(told["http_token_file"])
        self.token = self.token_file.read_text().strip()
        self.folder = cwd / "runs" / "pool"

    def members(self) -> dict[int, str]:
        """Processes of its session, and where their stderr goes."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.process.pid and state != "Z":
                    found[int(path.parent.name)] = os.readlink(path.parent / "fd" / "2")
            except OSError:
                continue
        return found

    def pid_of(self, name: str) -> int:
        """Of the process that writes this log."""
        log = str(self.folder / "logs" / f"{name}.log")
        return wait_for(lambda: next((p for p, at in self.members().items() if at == log), 0), f"{name} runs", WAIT_S)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        pid = self.pid_of(name)
        os.kill(pid, number)
        return pid

    def end(self) -> int:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        self.process.communicate(timeout=WAIT_S)
        return self.process.returncode

    def call(self, method: str, path: str, body: Any = None, token: str | None = None, **headers: str) -> Answer:
        """One request. body: as JSON, or bytes as they are."""
        place = self.url.partition("://")[2]
        connection = http.client.HTTPConnection(place, timeout=WAIT_S)
        token = self.token if token is None else token
        said = {"Authorization": f"Bearer {token}"} if token else {}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, data, {**JSON, **said, **headers})
        return Answer(connection.getresponse())

    def get(self, path: str) -> Any:
        answer = self.call("GET", path)
        assert answer.status == 200, (answer.status, answer.json)
        return answer.json

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        answer = self.call("POST", path, body)
        assert answer.status == status, (answer.status, answer.json)
        return answer.json

    def submit(self, fn: str, *args: Any, **more: Any) -> str:
        return self.post("/v1/tasks", {"fn": fn, "args": args, **more}, 201)["id"]

    def result(self, task: str) -> Any:
        return self.get(f"/v1/tasks/{task}/result?wait_s=60")["result"]


class Answer:
    """Read to its end."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.json = json.loads(response.read())
        response.close()


@contextlib.contextmanager
def started(cwd: Path, *words: str) -> Iterator[Up]:
    """At its end no process is left."""
    (cwd / "work.py").write_text(MODULE)
    up = Up(cwd, *words)
    try:
        wait_for(lambda: "in the pool" in up.log.read_text(), "the pool is there", WAIT_S)
        yield up
        assert up.end() == 0 and not up.members(), up.log.read_text()
    finally:
        if up.process.poll() is None:
            os.killpg(up.process.pid, signal.SIGKILL)
            up.process.communicate()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One pool for most of the file."""
    with started(tmp_path_factory.mktemp("http")) as up:
        yield up


@pytest.fixture
def client(up: Up) -> Iterator[Client]:
    with attach(up.folder) as client:
        yield client


def example(language: str) -> str:
    """The one in docs/http.md."""
    found = re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(found) == 1
    return str(found[0])


# -- the clients of the documentation


def test_the_ten_lines_of_javascript_submit_follow_and_get_a_result(up: Up, tmp_path: Path) -> None:
    source = example("js")
    assert len(source.splitlines()) <= 10
    (tmp_path / "client.js").write_text(source)
    done = subprocess.run(
        ["node", str(tmp_path / "client.js")], cwd=up.cwd, env={**os.environ, "PLESIO_URL": up.url},
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "6\n"), done.stderr


def test_the_example_with_curl_prints_the_result(up: Up) -> None:
    done = subprocess.run(
        ["bash", "-euc", example("sh")], cwd=up.cwd, env={**os.environ, "PLESIO_URL": up.url},
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert re.fullmatch(r'\{"id":"\d+-\d+","state":"done","result":6\}', done.stdout), done.stderr


# -- tasks


def test_a_task_is_followed_from_its_submission_to_its_result(up: Up, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    told = up.post("/v1/tasks", {"fn": "work:held", "args": [str(gate)], "wait_s": 0.05}, 201)
    task = told["id"]
    assert set(told) == {"id", "state"} and told["state"] == "ready"
    not_yet = up.call("GET", f"/v1/tasks/{task}/result?wait_s=0.05")
    assert not_yet.status == 202 and not_yet.json["state"] in ("ready", "leased")
    assert task in [row["id"] for row in up.get("/v1/tasks")["tasks"]]
    gate.touch()
    assert up.get(f"/v1/tasks/{task}/result?wait_s=60") == {"id": task, "state": "done", "result": "held"}
    row = up.get(f"/v1/tasks/{task}")
    assert row["state"] == "done" and row["fn"] == "work:held" and row["error"] is None


def test_options_of_a_call_are_those_of_the_pool(up: Up) -> None:
    first, second = (up.submit("work:echo", n, key="the same") for n in (1, 2))
    assert first != second and up.result(first) == up.result(second) == 1
    assert up.result(up.submit("work:echo", 1, kwargs={"b": [None, "ü"]})) == [[1], {"b": [None, "ü"]}]
    task = up.submit("work:echo", 1, requires={"gpu": 1}, priority=7, queue="q")
    row = up.get(f"/v1/tasks/{task}")
    assert (row["state"], row["priority"], row["queue"]) == ("ready", 7, "q")
    assert up.post(f"/v1/tasks/{task}/cancel")["state"] == "cancelled"
    assert up.call("GET", f"/v1/tasks/{task}/result").json["kind"] == "cancelled"


def test_a_failure_is_told_with_its_kind_and_message(up: Up) -> None:
    told = up.post("/v1/tasks", {"fn": "work:boom", "args": ["my words"], "wait_s": 60}, 201)
    assert told["state"] == "dead" and told["error"]["kind"] == "raised"
    answer = up.call("GET", f"/v1/tasks/{told['id']}/result")
    assert answer.status == 409 and answer.json["kind"] == "raised" and "my words" in answer.json["message"]
    assert up.get(f"/v1/tasks/{told['id']}")["error"]["kind"] == "raised"
    assert told["id"] in [row["id"] for row in up.get("/v1/tasks?state=dead&limit=5")["tasks"]]
    for path in ("/v1/tasks/999-1", "/v1/tasks/999-1/result"):
        assert up.call("GET", path).status == 404
    assert up.call("POST", "/v1/tasks/999-1/cancel").status == 404


def test_a_task_that_failed_and_is_given_another_chance_has_its_new_result(
    up: Up, client: Client, tmp_path: Path
) -> None:
    told = up.post("/v1/tasks", {"fn": "work:once", "args": [str(tmp_path / "mark")], "wait_s": 60}, 201)
    assert told["state"] == "dead"
    client.retry([told["id"]])
    wait_for(lambda: up.get(f"/v1/tasks/{told['id']}")["state"] == "done", "it ran again", WAIT_S)
    assert up.result(told["id"]) == "the second time"


def test_what_json_has_not_comes_and_goes_as_an_object(up: Up) -> None:
    array = {
        "$array": {"dtype": "<i2", "shape": [2, 2], "data": base64.b64encode(bytes([1, 0, 2, 0, 3, 0, 4, 0])).decode()}
    }
    odd = up.result(up.submit("work:odd"))
    assert odd == {"bytes": {"$bytes": "YWI="}, "array": array, "nan": {"$float": "nan"}, "tuple": [1, 2]}
    there = [{"$bytes": "YWI="}, array, {"$float": "-inf"}]
    assert up.result(up.submit("work:echo", there)) == there
    assert up.result(up.submit("work:strange")) == [1 << 60, {"1": 2}]
    refused = up.call("POST", "/v1/tasks", {"fn": "work:echo", "args": [{"$bytes": "no base64"}]})
    assert refused.status == 422 and "base64" in refused.json["message"]


def test_a_result_too_large_for_json_is_said_and_is_there_for_python(up: Up, client: Client) -> None:
    told = up.post("/v1/tasks", {"fn": "work:large", "wait_s": 60}, 201)
    assert told["state"] == "done" and "result" not in told
    answer = up.call("GET", f"/v1/tasks/{told['id']}/result")
    assert answer.status == 413 and "16 MiB" in answer.json["message"] and "Python" in answer.json["message"]
    assert len(client.follow([told["id"]])[0].result(WAIT_S)) == 20 << 20


def test_tasks_of_other_clients_are_seen_and_theirs_of_ours(up: Up, client: Client) -> None:
    future = client.submit("work:echo", [1, 2])
    client.flush()
    assert up.result(future.name) == [1, 2]
    assert client.follow([up.submit("work:echo", "ours")])[0].result(WAIT_S) == "ours"


# -- queues


def test_messages_are_put_taken_acknowledged_and_given_back(up: Up, client: Client) -> None:
    place = "/v1/queues/news/mine"  # a subscription: its name has a slash
    client.topic("news").subscribe("mine")
    client.topic("news").publish({"n": 1}).result(WAIT_S)
    up.post(f"{place}/messages", {"value": [2], "priority": 1}, 201)
    second, first = up.post(f"{place}/take", {"count": 5, "wait_s": 30})["messages"]
    assert (second["value"], first["value"], first["attempts"]) == ([2], {"n": 1}, 0)
    up.post(f"{place}/messages/{second['id']}/ack")
    up.post(f"{place}/messages/{first['id']}/nack", {"delay_s": 0})
    assert up.call("POST", f"{place}/messages/{second['id']}/ack").status == 404
    (again,) = up.post(f"{place}/take", {"wait_s": 30})["messages"]
    assert (again["id"], again["value"], again["attempts"]) == (first["id"], {"n": 1}, 1)
    up.post(f"{place.replace('news/', 'news%2F')}/messages/{again['id']}/ack")
    assert up.post(f"{place}/take", {})["messages"] == [] and up.get(place)["waiting"] == 0
    assert up.call("GET", f"/v1/tasks/{first['id']}/result").status == 404, "a message is no task"


def test_a_message_whose_lease_is_over_comes_again(up: Up) -> None:
    up.post("/v1/queues/leased/messages", {"value": "x"}, 201)
    (taken,) = up.post("/v1/queues/leased/take", {"wait_s": 30, "lease_s": 0.05})["messages"]
    (again,) = up.post("/v1/queues/leased/take", {"wait_s": 30})["messages"]
    assert again["id"] == taken["id"] and again["attempts"] == 1
    up.post(f"/v1/queues/leased/messages/{again['id']}/ack")


def test_a_message_may_be_nested_deeply_or_hold_what_json_has_not(up: Up, client: Client) -> None:
    deep = json.loads("[" * 300 + "]" * 300)
    up.post("/v1/queues/values/messages", {"value": deep}, 201)
    client.queue("values").put({"x": b"ab"}).result(WAIT_S)
    first, second = up.post("/v1/queues/values/take", {"count": 2, "wait_s": 30})["messages"]
    assert first["value"] == deep and second["value"] == {"x": {"$bytes": "YWI="}}
    for message in (first, second):
        up.post(f"/v1/queues/values/messages/{message['id']}/ack")


def test_who_leaves_while_it_waits_for_messages_takes_none(up: Up) -> None:
    place = up.url.partition("://")[2]
    gone = http.client.HTTPConnection(place, timeout=WAIT_S)
    headers = {**JSON, "Authorization": f"Bearer {up.token}"}
    gone.request("POST", "/v1/queues/left/take", b'{"wait_s": 60}', headers)
    asked_s = time.monotonic()
    assert gone.sock is not None
    wait_for(lambda: time.monotonic() - asked_s > 0.5, "it waits there")
    gone.close()
    up.post("/v1/queues/left/messages", {"value": 1}, 201)
    (taken,) = up.post("/v1/queues/left/take", {"wait_s": 30})["messages"]
    up.post(f"/v1/queues/left/messages/{taken['id']}/ack")


def test_a_full_queue_says_when_to_try_again_and_holds_up_no_other(up: Up) -> None:
    row = up.post("/v1/queues/small", {"capacity": 2, "paused": True})
    assert (row["capacity"], row["paused"], row["waiting"]) == (2, True, 0)
    for _ in range(2):
        up.post("/v1/queues/small/messages", {"value": 1}, 201)
    for path, body in (("/v1/queues/small/messages", {"value": 1}), ("/v1/tasks", {"fn": "a:b", "queue": "small"})):
        full = up.call("POST", path, body)
        assert full.status == 429 and full.json["kind"] == "full" and int(full.headers["Retry-After"]) >= 1
    assert up.result(up.submit("work:echo", "not held up")) == "not held up"
    assert up.post("/v1/queues/small", {"paused": False})["capacity"] == 2
    assert "small" in [row["name"] for row in up.get("/v1/queues")["queues"]]
    assert up.call("DELETE", "/v1/queues/small").json == {"removed": "small"}
    assert up.call("DELETE", "/v1/queues/small").status == up.call("GET", "/v1/queues/small").status == 404


# -- who may, and how much


def test_a_wrong_or_missing_token_gets_401_and_a_line_in_the_journal_that_does_not_hold_it(
    up: Up, typed_in: Callable[..., str]
) -> None:
    wrong = "not-the-token-0123456789"
    for token, reason in ((wrong, "the token is wrong"), ("", "there is no token")):
        for _ in range(20):
            answer = up.call("GET", "/v1/counts", token=token)
            assert answer.status == 401 and answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert reason in answer.json["message"]
    assert up.call("GET", "/openapi.json", token="").status == 401
    assert up.call("GET", "/health", token="").json == {"status": "ok"}

    def log() -> str:
        return typed_in(up.cwd, "log", "runs/pool")

    for reason in ("the token is wrong", "there is no token"):
        said = f"127.0.0.1 was turned away: HTTP: {reason}"
        wait_for(lambda said=said: said in log(), said, WAIT_S)
        assert log().count(f"{said}\n") == 1, "told once a minute, and counted"
    for path in [*(up.folder / "logs").iterdir(), up.log]:
        text = path.read_text()
        assert wrong not in text and up.token not in text
    assert (up.folder / "http-token").stat().st_mode & 0o777 == 0o600


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(up: Up) -> None:
    large = b"[" + b" " * (8 << 20) + b"]"
    answer = up.call("POST", "/v1/tasks", large)
    assert answer.status == 413 and "8 MiB" in answer.json["message"]
    connection = http.client.HTTPConnection(up.url.partition("://")[2], timeout=WAIT_S)
    headers = {"Authorization": f"Bearer {up.token}", "Transfer-Encoding": "chunked"}
    parts = iter([large[: 4 << 20], large[4 << 20 :]])
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it does not read on
        connection.request("POST", "/v1/tasks", parts, headers, encode_chunked=True)
    assert Answer(connection.getresponse()).status == 413


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        ({"fn": "work:echo", "arg": [1]}, 422, "body.arg"),
        ({"args": [1]}, 422, "body.fn"),
        ({"fn": "work:echo", "priority": "3"}, 422, "body.priority"),
        ({"fn": "work:echo", "priority": True}, 422, "body.priority"),
        ({"fn": "work:echo", "delay_s": float("nan")}, 422, "body.delay_s"),
        ({"fn": "work:echo", "requires": {"gpu": "1"}}, 422, "body.requires.gpu"),
        ({"fn": "work:echo", "queue": "\ud800"}, 422, "body.queue"),
        ({"fn": "work:echo", "args": ["\ud800"]}, 422, "body"),
        ({"fn": "work:echo", "args": [1 << 70]}, 422, "body"),
        ({"fn": "no function"}, 422, "body.fn"),
        ([], 422, "body"),
        ({"fn": "work:echo", "args": json.loads("[" * 700 + "]" * 700)}, 422, "body"),
        (b"{", 400, "body"),
        (b"[" * 100_000, 400, "body"),
        (b"\xff\xfe", 400, "body"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_where(up: Up, body: Any, status: int, where: str) -> None:
    answer = up.call("POST", "/v1/tasks", body)
    assert (answer.status, answer.json["where"]) == (status, where), answer.json
    assert up.result(up.submit("work:echo", 1)) == 1, "and the others go on"


def test_an_unknown_path_or_method_is_said_in_the_same_shape(up: Up) -> None:
    for method, path, status in (("GET", "/v2", 404), ("PUT", "/v1/tasks", 405), ("GET", "/v1/tasks/../x", 404)):
        answer = up.call(method, path)
        assert answer.status == status and set(answer.json) == {"kind", "message", "where"}
    said = up.call("POST", "/v1/tasks", {"fn": "math:gcd"}, **{"Content-Type": "text/plain"})
    assert said.status == 422 and "application/json" in said.json["message"]
    assert up.call("GET", "/v1/tasks/no-id").json["where"] == "path.id"
    assert up.call("GET", "/v1/tasks?limit=0").json["where"] == "query.limit"


# -- the document

HOOKS = """
import schemathesis

@schemathesis.hook
def before_call(context, case, kwargs):
    "What is valid waits no minute."
    for said in (case.body, case.query):
        wait_s = said.get("wait_s") if isinstance(said, dict) else None
        if isinstance(wait_s, (int, float)) and not isinstance(wait_s, bool) and 0 <= wait_s <= 60:
            said["wait_s"] = 0.01
"""


@pytest.mark.timeout(480)
def test_every_answer_is_as_the_document_says_whatever_is_asked(tmp_path: Path) -> None:
    """All checks of schemathesis, on a pool of its own: it pauses queues, too. Not of /v1/events, which never ends."""
    (tmp_path / "hooks.py").write_text(HOOKS)
    env = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    with started(tmp_path) as up:
        words = [
            *("run", f"{up.url}/openapi.json", "--header", f"Authorization: Bearer {up.token}", "--seed", "7"),
            *("--exclude-path", "/v1/events", "--max-examples", "12", "--no-color", "--warnings", "off"),
        ]
        done = subprocess.run(
            [str(Path(sys.executable).with_name("schemathesis")), *words],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr
        assert "19 selected / 20 total" in done.stdout
        assert "Traceback" not in (up.folder / "logs" / "http.log").read_text()


# -- events


class Listener:
    """Reads server-sent events in a thread."""

    def __init__(self, up: Up, last_id: str = "") -> None:
        self.connection = http.client.HTTPConnection(up.url.partition("://")[2], timeout=WAIT_S)
        headers = {"Authorization": f"Bearer {up.token}", **({"Last-Event-ID": last_id} if last_id else {})}
        self.connection.request("GET", "/v1/events", headers=headers)
        assert self.connection.sock is not None
        self.socket = self.connection.sock
        self.response = self.connection.getresponse()
        self.status = self.response.status
        self.events: list[tuple[str, str, dict[str, Any]]] = []  # (event, id, data)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        said: dict[str, str] = {}
        try:
            for line in self.response:
                name, _, text = line.decode().rstrip("\n").partition(": ")
                if name:
                    said[name] = text
                elif "event" in said:
                    self.events.append((said["event"], said.get("id", ""), json.loads(said["data"])))
                    said = {}
        except (OSError, http.client.HTTPException):
            pass  # its server was killed

    def wait(self, event: str, **data: Any) -> tuple[str, str, dict[str, Any]]:
        """The first one with this in it."""

        def found() -> tuple[str, str, dict[str, Any]] | None:
            return next((x for x in list(self.events) if x[0] == event and data.items() <= x[2].items()), None)

        return wait_for(found, f"event {event} {data}", WAIT_S)

    def close(self) -> None:
        """As a program that ends: its connection does."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(WAIT_S)
        self.response.close()
        self.connection.close()


def test_events_tell_of_ends_workers_and_counts_and_go_on_where_a_listener_was(up: Up, client: Client) -> None:
    listener = Listener(up)
    assert listener.status == 200 and listener.response.headers["Content-Type"].startswith("text/event-stream")
    listener.wait("counts")
    good, bad = up.submit("work:echo", 1), up.submit("work:boom", "no")
    _, id, _ = listener.wait("task", id=good, state="done")
    assert listener.wait("task", id=bad, state="dead")[2]["kind"] == "raised"
    up.kill("http")
    listener.thread.join(WAIT_S)
    assert not listener.thread.is_alive(), "its connection ended with the process"
    missed = client.submit("work:echo", 2)
    assert missed.result(WAIT_S) == 2
    again = Listener(up, id)
    again.wait("task", id=missed.name)
    tasks = [data["id"] for event, _, data in again.events if event == "task"]
    ours = [task for task in tasks if task in (good, bad, missed.name)]
    assert ours == [bad, missed.name], "each once, none missing"
    up.kill("here.0")
    again.wait("worker", slot="here.0", state="gone")
    again.wait("worker", slot="here.0", state="joined")
    again.close()
    elsewhere = Listener(up, "999999999-0")
    elsewhere.wait("missed")
    elsewhere.close()
    assert up.call("GET", "/v1/events", **{"Last-Event-ID": "no id"}).status == 422


def test_so_many_may_listen_and_no_more(up: Up) -> None:
    def let_in() -> Listener | None:
        listener = Listener(up)
        if listener.status == 200:
            return listener
        listener.close()
        return None

    def one() -> Listener:
        """Of those who listened before, the server learns a moment later that they are gone."""
        listener: Listener = wait_for(let_in, "there is room", WAIT_S)
        listener.wait("counts")
        return listener

    listeners = [one() for _ in range(MOST_LISTENERS)]
    assert up.call("GET", "/v1/events").status == 429
    for listener in listeners:
        listener.close()
    one().close()


# -- processes that die


def test_a_waiting_client_gets_its_result_although_the_http_process_and_then_the_coordinator_are_killed(
    up: Up, tmp_path: Path
) -> None:
    """The client of docs/http.md, with another function."""
    gate = tmp_path / "gate"
    source = example("js").replace("math:gcd", "work:held").replace("[12, 18]", json.dumps([str(gate)]))
    (tmp_path / "client.js").write_text(source.replace("gcd of 12 and 18", "what is killed"))
    waiting = subprocess.Popen(
        ["node", str(tmp_path / "client.js")], cwd=up.cwd, env={**os.environ, "PLESIO_URL": up.url},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(lambda: "work:held" in str(up.get("/v1/tasks?state=leased")), "it runs", WAIT_S)
        for name in ("http", "coordinator"):
            killed = up.kill(name)
            wait_for(lambda name=name, killed=killed: up.pid_of(name) != killed, "it is started again", WAIT_S)
        assert up.get("/health") == {"status": "ok"} and waiting.poll() is None
        gate.touch()
        out, error = waiting.communicate(timeout=WAIT_S)
    finally:
        waiting.kill()
    assert (waiting.returncode, out) == (0, "held\n"), error
    assert "the HTTP process ended (signal SIGKILL)" in up.log.read_text()


def test_messages_that_were_taken_through_a_process_that_dies_come_again(up: Up) -> None:
    place = "/v1/queues/again"
    up.post(f"{place}/messages", {"value": "x"}, 201)
    (taken,) = up.post(f"{place}/take", {"wait_s": 30})["messages"]
    up.kill("http")
    (again,) = up.post(f"{place}/take", {"wait_s": 30})["messages"]
    assert again["id"] == taken["id"]
    up.post(f"{place}/messages/{again['id']}/ack")


def test_a_pool_that_is_killed_takes_its_http_process_along_and_gives_the_results_when_it_is_up_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "work.py").write_text(MODULE)
    first = Up(tmp_path)
    try:
        done, waits = first.submit("work:echo", [1, 2]), first.submit("work:echo", 3, requires={"gpu": 1})
        assert first.result(done) == [1, 2]
    finally:
        first.process.kill()
        first.process.communicate()
    wait_for(lambda: not first.members(), "its processes end with it", WAIT_S)
    with started(tmp_path, "--tag", "gpu=1") as second:
        assert second.token == first.token
        assert second.result(done) == [1, 2] and second.result(waits) == 3


def test_while_the_pool_is_away_requests_wait_a_while_and_then_say_so(up: Up) -> None:
    coordinator = up.kill("coordinator", signal.SIGSTOP)
    try:
        requests = [
            ("GET", "/v1/counts"),
            ("POST", "/v1/tasks", {"fn": "work:echo", "args": [1]}),
            ("DELETE", "/v1/queues/x"),
        ]
        with ThreadPoolExecutor() as threads:
            answers = list(threads.map(lambda request: up.call(*request), requests))
        for answer in answers:
            assert answer.status == 503 and answer.headers["Retry-After"] == "1" and answer.json["kind"] == "away"
        assert up.get("/health") == {"status": "ok"}
    finally:
        os.kill(coordinator, signal.SIGCONT)
    assert up.result(up.submit("work:echo", 1)) == 1


# -- with TLS, and without what it needs


def test_with_tls_the_port_speaks_tls_only(tmp_path: Path) -> None:
    make_certificates(tmp_path / "certs", ["127.0.0.1"], [], 1)
    cert, key, ca = (str(tmp_path / "certs" / f"{name}.pem") for name in ("127.0.0.1", "127.0.0.1-key", "ca"))
    with started(tmp_path, "--tls", f"{cert},{key},{ca}") as up:
        place = up.url.removeprefix("https://")
        context = ssl.create_default_context(cafile=ca)
        connection = http.client.HTTPSConnection(place, timeout=WAIT_S, context=context)
        said = b'{"fn": "math:gcd", "args": [4, 6], "wait_s": 60}'
        connection.request("POST", "/v1/tasks", said, {**JSON, "Authorization": f"Bearer {up.token}"})
        assert Answer(connection.getresponse()).json["result"] == 2
        connection.close()
        host, _, port = place.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=WAIT_S) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not plain.recv(100).startswith(b"HTTP")


def test_a_port_that_is_taken_or_is_none_is_said(up: Up, tmp_path: Path, typed_in: Callable[..., str]) -> None:
    for where, said in ((up.url.rpartition(":")[2], "already in use"), ("x:y", "is not HOST:PORT")):
        error = typed_in(tmp_path, "up", "--http", where, code=2)
        assert said in error and "--http" in error


def test_what_is_not_installed_is_named_and_nothing_of_it_is_loaded_without_http(tmp_path: Path) -> None:
    code = (
        "import sys, plesio.cli.main, plesio.cli.hosting; assert not {'fastapi', 'uvicorn'} & set(sys.modules);"
        "sys.modules['fastapi'] = None; sys.argv = ['plesio', 'up', '--http', '0']; plesio.cli.main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "pip install 'plesio[http]'" in done.stderr
