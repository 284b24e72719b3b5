"""Which codecs go with which outer steps: a linear regression that a round of local steps nearly solves.

What feedback sends later arrives rounds late, and a round here goes so far that late changes overshoot: a model that
learns less in a round bears more. `decoupled`, H = 30, two learners, in one thread (plesio.testing.inmemory). A codec is
used on the way up, or on the way down; the other way is float32. Writes benchmarks/results/codec_feedback.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plesio.core.spec import RunSpec
from plesio.errors import CodecError
from plesio.strategies.text import parse
from plesio.testing.inmemory import Job, train

ROOT = Path(__file__).parents[1]
FEATURES, BATCH, TOKENS, RATE = 64, 16, 48_000, 0.01
CODECS = ("int8", "int4", "int2", "sign", "topk(1/16)+int4", "ef(topk(1/16)+int4, 0.9)")
OUTER = ("lr=0.7, momentum=0.9", "lr=0.7, momentum=0.5", "lr=1, momentum=0")


def regression() -> Job:
    """y is linear in x, with noise of variance .09; the model begins at zero knowledge."""
    draw = torch.Generator().manual_seed(1)
    weights = torch.randn(FEATURES, 1, generator=draw) * 0.225
    x = torch.randn(8192, FEATURES, generator=draw)
    y = x @ weights + 0.3 * torch.randn(8192, 1, generator=draw)
    torch.manual_seed(0)

    def loss(model: nn.Module, learner: int, step: int) -> Tensor:
        rows = torch.arange(BATCH) + (2 * step + learner) * BATCH % 6144
        return nn.functional.mse_loss(model(x[rows]), y[rows])

    @torch.no_grad()
    def held_out(model: nn.Module) -> float:
        return float(nn.functional.mse_loss(model(x[6144:]), y[6144:]))

    return Job(
        nn.Linear(FEATURES, 1),
        lambda model: torch.optim.SGD(model.parameters(), lr=RATE),
        loss,
        held_out,
        BATCH,
        lambda step: RATE,
    )


def measure(outer: str, up: str, down: str) -> dict[str, Any]:
    """One run. held_out: at the end; None: a change was NaN or Inf."""
    try:
        schedule = parse(f"decoupled(every=30, {outer})")
        spec = RunSpec(run="", learners=2, schedule=schedule, uplink=up, downlink=down, until_tokens=TOKENS)
        losses = train(regression(), spec, looks=4).losses
    except CodecError:
        losses = [(0, None)]
    return {"outer": outer, "up": up, "down": down, "held_out": losses[-1][1], "losses": losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "codec_feedback.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    job, rows = regression(), []
    for outer in OUTER:
        for up, down in [("none", "none"), *((c, "none") for c in CODECS), *(("none", c) for c in CODECS)]:
            rows.append(measure(outer, up, down))
            print(outer, up, down, rows[-1]["held_out"], flush=True)
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    result = {
        "what": "held-out mean squared error at the end; the noise's is .09",
        "at_the_beginning": job.held_out(job.model),
        "setting": {"every": 30, "learners": 2, "tokens": TOKENS, "batch": BATCH, "sgd": RATE, "features": FEATURES},
        "rows": rows,
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__,
                    "system": platform.platform()},
        "commit": git.stdout.strip(),
    }  # fmt: skip
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
