"""Values as bytes: microseconds of small ones beside pickle and plain msgspec; a large array through a segment and a socket.

Prints one JSON object. `call` is `encode_call` and `decode_call`, the path of every task; the others are `encode` and
`decode`. A time is the least of many repetitions: a machine that others use adds to it, and never takes away. For the
array another process decodes it and adds it up; `read` is the same with an array that is there already, which a plain
socket and a segment both end with. `fresh`: each segment in a new file; `again`: in a file used before.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from plesio.values import Shares, decode, decode_call, encode, encode_call, segments

MB = 1 << 20
SMALL: dict[str, Any] = {
    "int": 7,
    "call": ((1, 2), {}),
    "call_named": (("train", 3), {"rate": 0.1, "name": "a"}),
    "tuple": ((1, 2), {}),
    "result": {"loss": 0.5, "steps": 3, "names": ["a", "b"], "pair": (1, 2)},
    "thousand_floats": [0.5] * 1000,
    "thousand_pairs": [(number, 0.5) for number in range(1000)],
    "array_10": np.arange(10.0),
    "array_10k": np.arange(10_000.0),
    "tensor_10": torch.ones(10, dtype=torch.bfloat16),
}


def least_us(run: Callable[[], Any]) -> float:
    """Microseconds of one call, at the quietest moment."""
    number = max(1, int(0.001 / max(1e-7, timeit.timeit(run, number=10) / 10)))
    return round(min(timeit.repeat(run, number=number, repeat=100)) / number * 1e6, 3)


def small() -> dict[str, dict[str, float]]:
    """Microseconds to bytes and back, for each value and encoding."""
    rows = {}
    for name, value in SMALL.items():
        row: dict[str, float] = {}
        if name.startswith("call"):
            data = encode_call(*value)[0]
            row["encode"] = least_us(lambda value=value: encode_call(*value))
            row["decode"] = least_us(lambda data=data: decode_call(data))
        else:
            data = encode(value)
            row["encode"] = least_us(lambda value=value: encode(value))
            row["decode"] = least_us(lambda data=data: decode(data))
        pickled = pickle.dumps(value, 5)
        row["pickle"] = least_us(lambda value=value: pickle.dumps(value, 5))
        row["unpickle"] = least_us(lambda pickled=pickled: pickle.loads(pickled))
        if not isinstance(value, (np.ndarray, torch.Tensor)):
            encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder()
            packed = encoder.encode(value)
            row["msgspec_encode"] = least_us(lambda encoder=encoder, value=value: encoder.encode(value))
            row["msgspec_decode"] = least_us(lambda decoder=decoder, packed=packed: decoder.decode(packed))
        rows[name] = {**row, "bytes": len(data)}
    return rows


def read(descriptor: int, folder: str, limit_bytes: int) -> None:
    """The reading process: takes messages with their length before them, answers each with the sum of its array."""
    with socket.socket(fileno=descriptor) as link:
        shares = Shares(folder, limit_bytes)
        memory = bytearray(limit_bytes)  # received into again and again: no fresh pages
        while head := link.recv(8, socket.MSG_WAITALL):
            view = memoryview(memory)[: int.from_bytes(head, "little")]
            link.recv_into(view, len(view), socket.MSG_WAITALL)
            total = int(decode(view, shares).sum())
            link.sendall(total.to_bytes(8, "little"))


class Way:
    """One way to hand an array to a reading process of its own. shares: None for the socket alone."""

    def __init__(self, folder: str, limit_bytes: int, shared: bool) -> None:
        self._link, theirs = socket.socketpair()
        self._shares = Shares(folder, limit_bytes) if shared else None
        command = [sys.executable, __file__, "--read", str(theirs.fileno()), folder, str(limit_bytes)]
        self._reader = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()

    def hand(self, array: np.ndarray[Any, Any], total: int) -> tuple[float, float]:
        """Seconds until it is encoded, and until the reader has said the sum."""
        start = time.perf_counter()
        data = encode(array, self._shares)
        encoded = time.perf_counter()
        self._link.sendall(len(data).to_bytes(8, "little"))
        self._link.sendall(data)
        assert int.from_bytes(self._link.recv(8, socket.MSG_WAITALL), "little") == total
        end = time.perf_counter()
        if self._shares is not None:
            assert self._shares.fallbacks == 0
            self._shares.drop(segments(data))
        return encoded - start, end - start

    def close(self) -> None:
        self._link.close()
        self._reader.wait(10)


def large(size_mb: int, rounds: int, folder: Path) -> dict[str, float]:
    """GB/s of one array to another process that has added it up, medians."""
    array = np.ones(size_mb * MB // 8, np.int64)
    total = int(array.sum())
    ways = {
        "socket": Way(str(folder / "socket"), 2 * array.nbytes, shared=False),
        "segment_fresh": Way(str(folder / "fresh"), 2 * array.nbytes, shared=True),  # too little to keep a file
        "segment_again": Way(str(folder / "again"), 8 * array.nbytes, shared=True),
    }
    times: dict[str, list[float]] = {}
    for number in range(rounds + 2):
        for name, way in ways.items():
            encoded_s, read_s = way.hand(array, total)
            if number >= 2:  # before that, memory is touched for the first time
                times.setdefault(f"{name}_encode", []).append(encoded_s)
                times.setdefault(name, []).append(read_s)
        start = time.perf_counter()
        array.sum()
        times.setdefault("read", []).append(time.perf_counter() - start)
    for way in ways.values():
        way.close()
    return {name: round(array.nbytes / statistics.median(took) / 1e9, 2) for name, took in sorted(times.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size-mb", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--folder", default="/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir())
    parser.add_argument("--read", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read(int(options.read[0]), options.read[1], int(options.read[2]))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = {
            "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
            "small_us": small(),
            "array_mb": options.size_mb,
            "array_gb_per_s": large(options.size_mb, options.rounds, Path(folder)),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
