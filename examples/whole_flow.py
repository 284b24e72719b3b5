"""The whole flow in one file: a pool, a training run on it, a fault, batch inference with the model, the gathered result.

    python examples/whole_flow.py

The digits of scikit-learn, a small CNN. The file is the flow's program, the run's script, and what the workers call.
What it makes is below `flow/`; begin again with an empty folder.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import plesio

FLOW = Path("flow")
MODEL = FLOW / "run" / "model.safetensors"
HELD_OUT = 360


def data() -> tuple[Tensor, Tensor]:
    """x: (1797, 1, 8, 8), y: (1797,). The last HELD_OUT are not trained on."""
    digits = load_digits()
    return torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16.0, torch.tensor(digits.target)


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(256, 10),
    )  # fmt: skip


def train(run: plesio.Run) -> None:
    """The script of the run: what a learner does."""
    torch.set_num_threads(1)
    x, y = data()
    x, y = x[:-HELD_OUT], y[:-HELD_OUT]
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    learner = run.learner(model, optimizer)
    for unit in run.units(len(x), 32, epochs=12):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[unit.samples]), y[unit.samples])
        loss.backward()
        optimizer.step()
        time.sleep(0.02)  # so that there is time for a fault
        learner.step(tokens=len(unit), loss=loss.item())


class Classifier:
    """Loaded once per worker process, called with batches of records."""

    def setup(self) -> None:
        from safetensors.torch import load_file

        torch.set_num_threads(1)
        self.model = build()
        self.model.load_state_dict(load_file(MODEL))

    def batch(self, records: list[dict]) -> list[dict]:
        x = torch.tensor([record["image"] for record in records])[:, None]
        with torch.no_grad():
            found = self.model(x).argmax(-1).tolist()
        return [{"digit": record["digit"], "found": digit} for record, digit in zip(records, found, strict=True)]


def count(path: str) -> tuple[int, int]:
    """(right, all) of a part of the output."""
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return sum(row["digit"] == row["found"] for row in rows), len(rows)


def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return a[0] + b[0], a[1] + b[1]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "plesio", *words]


def trained(client: plesio.Client, tokens: int) -> bool:
    """Has the run committed so much?"""
    from plesio.runs import requests

    return any((row.get("tokens") or 0) >= tokens for row in requests.rows(client))


def kill_a_learner() -> None:
    """As a preempted machine: no word, no goodbye."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if b"plesio\0join" in line and str(FLOW.resolve()).encode() in line:
            os.kill(int(path.parent.name), signal.SIGKILL)
            return


def flow() -> None:
    FLOW.mkdir()
    pool_folder = str(FLOW / "pool")
    pool = subprocess.Popen(command("up", "--dir", pool_folder, "--workers", "2"), stderr=subprocess.DEVNULL)
    while pool.poll() is None and not (FLOW / "pool" / "address.json").exists():
        time.sleep(0.05)
    client = plesio.attach(pool_folder)
    messages = client.queue("news")
    print("1. a pool of two workers")

    here = Path(__file__).resolve()
    words = ("run", "--on", str(FLOW.resolve() / "pool"), "--name", "digits", "--learners", "2", "--start-rounds", "8")
    run = subprocess.Popen(command(*words, "--every", "8", here.name), cwd=here.parent, stderr=subprocess.DEVNULL)
    beside = client.submit("math:gcd", 12, 18).result()
    print(f"2. a training run of two learners is submitted, and a task beside it, which says {beside}")
    while run.poll() is None and not trained(client, 4000):
        time.sleep(0.5)
    kill_a_learner()
    messages.put("a learner was killed")
    assert run.wait() == 0
    fetched = command("runs", "fetch", "digits", "--dir", pool_folder, "--out", str(MODEL.parent))
    subprocess.run(fetched, check=True, stderr=subprocess.DEVNULL)
    summary = json.loads((MODEL.parent / "summary.json").read_text())
    units = summary["units"]
    with messages.get() as news:
        print(f"3. a message: {news}")
    print(f"4. recovered, {summary['faults'] > 0}: units lost {units['lost']}, applied twice {units['duplicated']}")

    x, y = data()
    pairs = zip(x[-HELD_OUT:], y[-HELD_OUT:], strict=True)
    rows = [{"image": image[0].tolist(), "digit": int(digit)} for image, digit in pairs]
    (FLOW / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    from plesio.batch import map_records

    found = map_records(Classifier, FLOW / "held_out.jsonl", FLOW / "out", pool=client, part_records=100)
    print(f"5. batch inference with the model: {found.records} records, {found.dead} dead, {found.parts} parts")
    parts = [str(path.resolve()) for path in sorted((FLOW / "out").glob("part-*.jsonl"))]
    right, total = client.reduce(count, parts, combine=add)
    print(f"6. gathered: {right / total:.0%} of {total} digits are right")
    client.close()
    log = subprocess.run(command("log", pool_folder), capture_output=True, text=True, check=True).stdout
    print(f"7. journaled: {'runs.hosting:host_run' in log and 'batch.work' in log}")
    pool.send_signal(signal.SIGINT)
    pool.wait()


if __name__ == "__main__":
    run = plesio.join()
    if run.alone:
        flow()
    else:
        train(run)
