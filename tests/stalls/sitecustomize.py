"""With this folder on PYTHONPATH every Python process stands still now and then, as on a machine with too much to do.

A test that holds only when things happen in their usual order fails under it within a few runs (`make test-stalled`). What
it is not: a test, or part of the package. It uses no processor time: a thread sleeps while it holds the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import os
import random
import threading
import time

PAUSE_S = (0.05, 1.0)  # between two stalls
STALL_S = (0.02, 0.4)  # short beside every timeout of plesio's; long beside what one process waits for another


def _stall() -> None:
    chance = random.Random(os.getpid())
    usleep = ctypes.PyDLL(None).usleep  # PyDLL: called with the lock held
    while True:
        time.sleep(chance.uniform(*PAUSE_S))
        usleep(int(chance.uniform(*STALL_S) * 1e6))


threading.Thread(target=_stall, daemon=True, name="stalls").start()
