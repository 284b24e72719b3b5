"""Float64, real processes: several learners compute what one would. Source: ALGORITHMS section 1."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from plesio.cli import cert
from plesio.core.spec import RunSpec
from plesio.errors import PlesioError
from plesio.runtime.supervisor import Plan, Supervisor
from plesio.strategies.barrier import All
from plesio.strategies.base import Outer, Strategy
from plesio.strategies.presets import Async, DiLoCo, LocalSGD, Sync
from plesio.strategies.schedule import Schedule
from plesio.strategies.text import parse
from plesio.wire.tls import Tls
from plesio.wire.tls import load as load_tls

SCRIPT = Path(__file__).parents[1] / "scripts" / "exact.py"
STEPS = 15


def load_script(sizes: list[int], inner: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("exact", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    old, sys.argv = sys.argv, ["exact.py", "", ",".join(map(str, sizes)), inner]
    try:
        spec.loader.exec_module(module)
    finally:
        sys.argv = old
    return module


def joined(sizes: list[int], inner: str, steps: int = STEPS) -> dict[str, torch.Tensor]:
    """One learner on the joined batches."""
    script = load_script(sizes, inner)
    net = script.model()
    optimizer = script.optimizer(net)
    for step in range(steps):
        parts = [script.batch(step, r) for r in range(len(sizes))]
        x, y = (torch.cat([p[i] for p in parts]) for i in (0, 1))
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
    return dict(net.state_dict())


def trained(
    tmp_path: Path, schedule: Schedule, sizes: list[int], inner: str, steps: int = STEPS, tls: Tls | None = None
) -> list[dict[str, torch.Tensor]]:
    """The weights of every learner after a real run."""
    spec = RunSpec(
        run="exact",
        learners=len(sizes),
        schedule=schedule,
        until_tokens=steps * sum(sizes),
        script=str(SCRIPT),
        argv=(str(tmp_path), ",".join(map(str, sizes)), inner),
    )
    (tmp_path / "run").mkdir()
    supervisor = Supervisor(
        Plan(spec=spec, run_dir=tmp_path / "run", token="0" * 32, tls=tls), lambda status: None, lambda words: None
    )

    async def bounded() -> None:
        await asyncio.wait_for(supervisor.run(), 120)

    asyncio.run(bounded())
    return [torch.load(tmp_path / f"weights-{r}.pt", weights_only=True) for r in range(len(sizes))]


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, tensor in one.items():
        assert (tensor - other[name]).abs().max().item() < 1e-10, name


@pytest.mark.parametrize("inner", ["adamw", "sgd"])
def test_sync_with_unequal_batches_is_one_learner_on_the_joined_batch(tmp_path: Path, inner: str) -> None:
    sizes = [4, 7, 2]
    expected = joined(sizes, inner)
    for weights in trained(tmp_path, Schedule.of(Sync()), sizes, inner):
        assert_equal(weights, expected)


def test_with_tls_the_model_is_the_same_to_the_bit(tmp_path: Path) -> None:
    cert.make(tmp_path / "c", ["trainer"], [], 30)
    tls = load_tls(
        ",".join(str(tmp_path / "c" / name) for name in ("trainer.pem", "trainer-key.pem", "ca.pem")), serves=True
    )
    found = []
    for name, side in (("plain", None), ("tls", tls)):
        (tmp_path / name).mkdir()
        found += trained(tmp_path / name, Schedule.of(Sync()), [4, 7, 2], "adamw", tls=side)
    for weights in found[1:]:
        for name, tensor in found[0].items():
            assert torch.equal(tensor, weights[name]), name


LIMIT = Strategy(name="limit", every=1, barrier=All(), merge="mean", outer=Outer(1.0), overlap=0)


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule.of(LIMIT),
        Schedule.of(LIMIT, Sync(), 6),
        Schedule.of(DiLoCo(every=1, lr=1.0, momentum=0.0)),
        parse("sync until tokens=60; diloco(every=1, lr=1, momentum=0) until rounds=11; sync"),
    ],
    ids=["decoupled at its limit", "after a synchronous start", "diloco(1, 1, 0)", "there and back"],
)
def test_at_their_limit_local_steps_are_sync(tmp_path: Path, schedule: Schedule) -> None:
    sizes = [5, 5]
    expected = joined(sizes, "sgd")
    for weights in trained(tmp_path, schedule, sizes, "sgd"):
        assert_equal(weights, expected)


@pytest.mark.parametrize("inner", ["adamw", "sgd"])
def test_localsgd_with_one_learner_is_sequential(tmp_path: Path, inner: str) -> None:
    expected = joined([4], inner, steps=16)
    (weights,) = trained(tmp_path, Schedule.of(LocalSGD(every=4)), [4], inner, steps=16)
    assert_equal(weights, expected)


@pytest.mark.parametrize(
    ("schedule", "inner"),
    [
        ("async", "adamw"),
        ("async", "momentum"),
        ("sync until rounds=7; async", "adamw"),
        ("async until tokens=28; sync", "adamw"),
    ],
)
def test_async_with_one_learner_is_plain_pytorch_to_the_bit(tmp_path: Path, schedule: str, inner: str) -> None:
    expected = joined([4], inner)
    (weights,) = trained(tmp_path, parse(schedule), [4], inner)
    for name, tensor in expected.items():
        assert torch.equal(tensor, weights[name]), name


def test_an_optimizer_that_the_synchronizer_has_not_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PlesioError):
        trained(tmp_path, Schedule.of(Async()), [4], "rmsprop")
    assert "not RMSprop" in (tmp_path / "run" / "logs" / "learner-0.log").read_text()
