"""`plesio map` beside the bare function: the same file, the same function, two processes each.

The bare one reads the halves of the file in two processes, parses, computes, serialises and writes, with the same libraries.
Rounds alternate; ratios are of medians; cpu_us is the processors' time for a record, which other work on the machine
disturbs less. What both wrote must be the same bytes. Then one run over --most records, in which the coordinator's memory
is watched. Writes benchmarks/results/map.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from plesio.batch import Progress, map_records
from plesio.tasks import connect
from plesio.testing.poolcrew import children

ROOT = Path(__file__).parents[1]
WORKERS, BATCH = 2, 256
ROUNDS_OF_HASHING = 60
WORDS = [
    "plesiochronous",
    "clocks",
    "run",
    "almost",
    "not",
    "quite",
    "together",
    "and",
    "nobody",
    "waits",
    "for",
    "all",
]


def tokenise(record: dict[str, Any]) -> dict[str, Any]:
    """Some tens of microseconds: words as numbers, and a digest of the text."""
    text = record["text"]
    digest = hashlib.sha256(text.encode()).digest()
    for _ in range(ROUNDS_OF_HASHING):
        digest = hashlib.sha256(digest).digest()
    return {"id": record["id"], "tokens": [len(word) for word in text.split()], "digest": digest.hex()[:16]}


def make(path: Path, count: int) -> None:
    """So many short records."""
    with path.open("w") as file:
        for i in range(count):
            text = " ".join(WORDS[(i * 7 + k * k) % len(WORDS)] for k in range(12))
            file.write(json.dumps({"id": i, "text": text}) + "\n")


def bare_half(source: str, out: str, begin: int, end: int) -> None:
    """One of the two processes."""
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    with open(source, "rb", 1 << 20) as lines, open(out, "wb", 1 << 20) as written:
        lines.seek(begin)
        at = begin
        for line in lines:
            if at >= end:
                break
            at += len(line)
            written.write(encode(tokenise(decode(line))) + b"\n")
        written.flush()
        os.fsync(written.fileno())


def cpu_s(pid: int) -> float:
    """Of a process and those that it started, as far as they live."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + sum(map(cpu_s, children(pid)))


Turn = tuple[float, float, str]  # seconds, seconds of processors, digest of what was written


def bare(source: Path, folder: Path) -> Turn:
    """Both processes, from their start to the end of the last."""
    with source.open("rb") as file:
        file.seek(source.stat().st_size // 2)
        file.readline()
        cuts = [0, file.tell(), source.stat().st_size]
    outs = [folder / f"bare-{n}" for n in range(2)]
    calls = [f"bare_half({str(source)!r}, {str(outs[n])!r}, {cuts[n]}, {cuts[n + 1]})" for n in range(2)]
    began_s = time.monotonic()
    line = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); from bench_map import bare_half; "
    processes = [subprocess.Popen([sys.executable, "-c", line + call]) for call in calls]
    ended = [os.wait4(process.pid, 0) for process in processes]
    took_s = time.monotonic() - began_s
    for process, (_, status, _) in zip(processes, ended, strict=True):
        process.returncode = os.waitstatus_to_exitcode(status)
    if any(process.returncode for process in processes):
        raise SystemExit("a bare process failed; its own words are above")
    return took_s, sum(used.ru_utime + used.ru_stime for _, _, used in ended), digest_of(outs)


def mapped(source: Path, out: Path, pool: Path) -> Turn:
    """A map, from nothing started; its processors' time is that of the pool and of this process."""
    began_s, mine_s, used_s = time.monotonic(), time.process_time(), 0.0

    def note(progress: Progress) -> None:
        nonlocal used_s
        if progress.fraction == 1.0:
            used_s = cpu_s(json.loads((pool / "address.json").read_text())["pid"])

    map_records(
        f"{Path(__file__).resolve()}:tokenise", source, out,
        pool=lambda: connect(folder=pool, workers=WORKERS), batch=BATCH,
        progress=note,
    )  # fmt: skip
    return time.monotonic() - began_s, used_s + time.process_time() - mine_s, digest_of(sorted(out.glob("part-*")))


def digest_of(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


class Watch:
    """The coordinator's resident memory, sampled while `with` lasts."""

    def __init__(self, pool: Path) -> None:
        self.pool = pool
        self.samples_mb: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.5):
            try:
                host = json.loads((self.pool / "address.json").read_text())["pid"]
                log = str(self.pool / "logs" / "coordinator.log")
                pids = [pid for pid in children(host) if os.readlink(f"/proc/{pid}/fd/2") == log]
                status = Path(f"/proc/{pids[0]}/status").read_text()
            except (OSError, ValueError, IndexError, KeyError):
                continue
            self.samples_mb.append(int(status.partition("VmRSS:")[2].split()[0]) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000, help="of each round")
    parser.add_argument("--most", type=int, default=1_000_000, help="of the run that is watched; 0: none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "map.json")
    args = parser.parse_args()
    before, rows = os.getloadavg(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "in.jsonl", args.records)
        for number in range(args.rounds):
            turns = [("bare", bare(folder / "in.jsonl", folder))] if number % 2 else []
            turns.append(("map", mapped(folder / "in.jsonl", folder / f"out-{number}", folder / f"pool-{number}")))
            turns += [] if number % 2 else [("bare", bare(folder / "in.jsonl", folder))]
            found = dict(turns)
            if found["bare"][2] != found["map"][2]:
                raise SystemExit("the two wrote different bytes")
            rates = {name: round(args.records / found[name][0], 1) for name in ("bare", "map")}
            rows.append(rates | {f"{name}_cpu_us": round(1e6 * found[name][1] / args.records, 2) for name in rates})
            print(f"round {number + 1} of {args.rounds}: {rows[-1]}", file=sys.stderr, flush=True)
        result: dict[str, Any] = {
            "what": "records a second, from nothing started",
            "records": args.records,
            "rounds": rows,
        }
        medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        result |= {"medians": medians, "ratio": round(medians["map"] / medians["bare"], 3)}
        result["cpu_ratio"] = round(medians["bare_cpu_us"] / medians["map_cpu_us"], 3)
        if args.most:
            make(folder / "most.jsonl", args.most)
            bare_s, _, wanted = bare(folder / "most.jsonl", folder)
            with Watch(folder / "pool-most") as watch:
                map_s, _, wrote = mapped(folder / "most.jsonl", folder / "out-most", folder / "pool-most")
            if wrote != wanted:
                raise SystemExit("the two wrote different bytes")
            seen = watch.samples_mb
            result["most"] = {
                "records": args.most, "bare_per_s": round(args.most / bare_s, 1), "map_per_s": round(args.most / map_s, 1),
                "ratio": round(bare_s / map_s, 3), "coordinator_mb_most": round(max(seen), 1),
                "coordinator_mb_by_quarter": [round(seen[len(seen) * q // 4 - 1], 1) for q in (1, 2, 3, 4)],
            }  # fmt: skip
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    result |= {
        "workers": WORKERS,
        "batch": BATCH,
        "load_before_and_after": [before, os.getloadavg()],
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "commit": git.stdout.strip(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("medians", "ratio", "cpu_ratio", "most") if key in result}))


if __name__ == "__main__":
    main()
