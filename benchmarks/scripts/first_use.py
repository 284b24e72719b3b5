"""Prints the seconds that a process needs from `import plesio.codecs` to the first tensor that was there and back.

torch is imported before. The compiled loops come from the disk, when this was run before.
"""

import sys
import time

import torch

torch.set_num_threads(1)
tensor = torch.randn(1 << 20)
began = time.perf_counter()

from plesio.codecs import decode, parse  # noqa: E402

codec = parse(sys.argv[1])
decode(codec.encode(tensor, codec.init(tensor))[0])
print(time.perf_counter() - began)
