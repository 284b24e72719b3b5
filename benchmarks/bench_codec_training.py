"""What a codec costs in loss: a byte GPT of a million parameters under `decoupled`, two learners, several seeds.

Real replicas, codecs, feedback, merges and outer steps, in one thread (plesio.testing.inmemory). Of one seed all codecs
begin with the same model and see the same data in the same order: source text of the standard library, of which one file
in 20 is held out. Changes go up coded, gradients of the synchronous start as in `plesio run`; versions come down as
float32, or as --downlink says. Writes
benchmarks/results/codec_training.json after each run, and keeps the runs in it that were made with the same setting, so
that it may be stopped and called again: for other codecs, strategies and seeds, too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plesio.cli.coarse import advise
from plesio.codecs import parse
from plesio.core.spec import RunSpec
from plesio.runtime.fragments import Layout
from plesio.strategies.text import parse as parse_schedule
from plesio.testing.inmemory import Job, train, warmup_then_cosine

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))
import gpt  # noqa: E402

CODECS = ("none", "topk(1/64)+int2", "sign", "int4", "int8", "nf4", "codebook(16)")
STRATEGY = "decoupled(every=30)"
LEARNERS, BATCH, CONTEXT, WIDTH, LAYERS = 2, 8, 64, 192, 2
HELD_OUT_WINDOWS = 512
Row = dict[str, Any]


def job(seed: int, tokens: int, lr: float, warmup: int) -> Job:
    """The GPT on the text, from that seed."""
    text, held_out_text = gpt.read_corpus()
    order = np.random.default_rng(seed).permutation((len(text) - 1) // CONTEXT)
    spread = np.linspace(0, (len(held_out_text) - 1) // CONTEXT - 1, HELD_OUT_WINDOWS).astype(np.int64)
    held_out = gpt.windows(held_out_text, spread, CONTEXT)
    torch.manual_seed(seed)
    model = gpt.GPT(WIDTH, LAYERS, CONTEXT)

    def loss(model: torch.nn.Module, learner: int, step: int) -> torch.Tensor:
        first = (step * LEARNERS + learner) * BATCH
        return gpt.nats_per_byte(model, gpt.windows(text, order[first : first + BATCH], CONTEXT))

    return Job(
        model,
        lambda model: torch.optim.AdamW(model.parameters(), lr=lr, fused=True),
        loss,
        lambda model: float(gpt.nats_per_byte(model, held_out)),
        BATCH * CONTEXT,
        warmup_then_cosine(lr, warmup, tokens // (BATCH * CONTEXT * LEARNERS)),
    )


def measure(codec: str, downlink: str, seed: int, args: argparse.Namespace) -> Row:
    """One run."""
    began_s = time.perf_counter()
    made = job(seed, args.tokens, args.lr, args.warmup)
    schedule = parse_schedule(args.strategy)
    gradients = advise(codec, schedule).gradient_uplink  # as in `plesio run`
    spec = RunSpec(
        run="", learners=LEARNERS, schedule=schedule, uplink=codec, gradient_uplink=gradients, downlink=downlink,
        until_tokens=args.tokens,
    )  # fmt: skip
    course = train(made, spec)
    layout = Layout.of(list(made.model.named_parameters()))

    def predicted(text: str) -> int:
        return layout.bound(parse(text)).wire_bytes((layout.numel,), torch.float32)

    return {
        "codec": codec,
        "gradients": gradients or codec,
        "downlink": downlink,
        "strategy": args.strategy,
        "seed": seed,
        "held_out": course.losses[-1][1],
        "losses": course.losses,
        "push_bytes": sorted(set(course.pushes)),
        "predicted_push_bytes": sorted({predicted(text) for text in (gradients or codec, codec)}),
        "change_bytes": course.pushes[-1],
        "pushes": len(course.pushes),
        "up_bytes": sum(course.pushes),
        "down_bytes": LEARNERS * sum(course.downs),
        "seconds": round(time.perf_counter() - began_s, 1),
    }


def kind(row: Row) -> tuple[str, str, str]:
    """What tells runs of one seed apart."""
    return row["codec"], row["downlink"], row["strategy"]


def compared(rows: list[Row]) -> list[Row]:
    """Each kind beside float32 both ways under the same strategy, of the same seeds."""
    plain = {(r["strategy"], r["seed"]): r["held_out"] for r in rows if kind(r)[:2] == ("none", "none")}
    found = []
    for one in dict.fromkeys(map(kind, rows)):
        own = [row for row in rows if kind(row) == one and (one[2], row["seed"]) in plain]
        more = [round(100 * (row["held_out"] / plain[one[2], row["seed"]] - 1), 2) for row in own]
        if own:
            found.append(
                {
                    "codec": one[0],
                    "downlink": one[1],
                    "strategy": one[2],
                    "seeds": [row["seed"] for row in own],
                    "held_out": round(statistics.mean(row["held_out"] for row in own), 4),
                    "more_percent": round(statistics.mean(more), 2),
                    "more_percent_by_seed": more,
                    "change_bytes": own[0]["change_bytes"],
                    "as_predicted": all(row["push_bytes"] == row["predicted_push_bytes"] for row in own),
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codecs", default=";".join(CODECS), help="parted by ';'")
    parser.add_argument("--seeds", default="0;1;2")
    parser.add_argument("--tokens", type=int, default=1_500_000)
    parser.add_argument("--strategy", default=STRATEGY)
    parser.add_argument("--downlink", default="none", help="a codec, or 'same'")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=60, help="steps in which the learning rate rises")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "codec_training.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    setting = {key: getattr(args, key) for key in ("tokens", "lr", "warmup")} | {
        "learners": LEARNERS, "batch": BATCH, "context": CONTEXT, "width": WIDTH, "layers": LAYERS,
    }  # fmt: skip
    before: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    rows: list[Row] = before["rows"] if before.get("setting") == setting else []
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    for seed in map(int, args.seeds.split(";")):
        for codec in args.codecs.split(";"):
            downlink = codec if args.downlink == "same" else args.downlink
            if any((*kind(row), row["seed"]) == (codec, downlink, args.strategy, seed) for row in rows):
                continue
            rows.append(measure(codec, downlink, seed, args))
            result = {
                "what": "held-out loss of a byte GPT, nats per byte; more_percent: than float32 of that seed and strategy",
                "setting": setting,
                "compared": compared(rows),
                "rows": rows,
                "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__,
                            "system": platform.platform()},
                "commit": git.stdout.strip(),
            }  # fmt: skip
            args.out.write_text(json.dumps(result, indent=1) + "\n")
            print({key: value for key, value in rows[-1].items() if key != "losses"}, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
