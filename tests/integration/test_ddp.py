"""Two processes under DistributedDataParallel with gloo, their gradients as packets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from plesio.errors import UnknownName
from plesio.training import ddp_hook

SCRIPT = Path(__file__).parent.parent / "scripts" / "ddp.py"
LOSSY = ["int8", "topk(1/4)+int4", "sign", "powersgd(2)", "ef(powersgd(1)+int8)"]
CODECS = ["none", *LOSSY]
WAIT_S = 120


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks tells."""
    folder = tmp_path_factory.mktemp("ddp")
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", SCRIPT, str(rank), "2", folder / "store", folder / f"{rank}.pt", *CODECS],
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in started:
            _, said = process.communicate(timeout=WAIT_S)
            assert process.returncode == 0, said
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_with_none_gradients_are_those_of_ddp(ranks: list[dict[str, Any]]) -> None:
    assert max(rank["off"] for rank in ranks) <= 1e-7


@pytest.mark.parametrize("codec", CODECS)
def test_the_loss_goes_down_and_all_ranks_have_the_same_bits(ranks: list[dict[str, Any]], codec: str) -> None:
    first, second = (rank[codec] for rank in ranks)
    for one in (first, second):
        assert one["losses"][-1] < one["losses"][0] / 5
    assert first["losses"] != second["losses"], "they have data of their own"
    for name, parameter in first["parameters"].items():
        assert torch.equal(parameter, second["parameters"][name]), name


@pytest.mark.parametrize("codec", CODECS)
def test_what_came_out_and_the_mean_residual_are_what_went_in(ranks: list[dict[str, Any]], codec: str) -> None:
    first, second = (rank[codec] for rank in ranks)
    assert bool(first["residuals"]) == (codec != "none")
    for name, came in first["came"].items():
        assert torch.equal(came, second["came"][name]), name
        went = (first["went"][name] + second["went"][name]) / 2
        kept = sum(each["residuals"].get(name, torch.zeros(())).double() for each in (first, second)) / 2
        assert (came + kept - went).norm() <= 1e-5 * went.norm(), name


@pytest.mark.parametrize("codec", LOSSY)
def test_feedback_keeps_something(ranks: list[dict[str, Any]], codec: str) -> None:
    for rank in ranks:
        record = rank[codec]
        name = "module.first.weight"
        assert record["residuals"][name].norm() > 1e-5 * record["went"][name].norm(), "else the sums above say nothing"


@pytest.mark.parametrize("codec", CODECS)
def test_the_buckets_were_made_anew_on_the_way(ranks: list[dict[str, Any]], codec: str) -> None:
    for rank in ranks:
        buckets = rank[codec]["buckets"]
        assert len(buckets[0]) > len(buckets[-1]), "else no test here is about that"


@pytest.mark.parametrize("codec", CODECS)
def test_nan_on_one_rank_is_nan_on_all_and_nothing_remembers_it(ranks: list[dict[str, Any]], codec: str) -> None:
    for rank in ranks:
        record = rank[codec]
        assert all(bool(each.isnan().all()) for each in record["spoiled"].values())
        assert record["kept"]
        for name, gradient in record["next"].items():
            assert bool(gradient.isfinite().all()), name
            assert torch.equal(gradient, ranks[0][codec]["next"][name]), name


@pytest.fixture
def alone() -> Iterator[dist.ProcessGroup]:
    """A group of this process only."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    assert dist.group.WORLD is not None
    yield dist.group.WORLD
    dist.destroy_process_group()


def as_it_lies(tensor: Tensor, parameter: Tensor) -> Tensor:
    """(numel,): in the order in which the parameter's values lie in memory, and in DDP's buckets."""
    room = torch.empty_strided(parameter.shape, parameter.stride(), dtype=tensor.dtype)
    return room.copy_(tensor).as_strided((tensor.numel(),), (1,))


@pytest.mark.parametrize("as_view", [False, True], ids=["copied", "view"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("codec", ["none", "int8", "powersgd(2)"])
def test_gradients_of_any_dtype_and_strides_come_back_as_theirs(
    alone: dist.ProcessGroup, codec: str, dtype: torch.dtype, as_view: bool
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 16, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16 * 36, 8))
    net = net.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = DistributedDataParallel(net, gradient_as_bucket_view=as_view)
    hook = ddp_hook(codec)
    model.register_comm_hook(alone, hook)
    parameters, (went, came) = [*net.parameters()], (list[Any]([0] * 4) for _ in range(2))
    for _ in range(4):
        x = torch.randn(6, 4, 8, 8).to(dtype)
        plain = torch.autograd.grad(net(x).square().mean(), parameters)
        model.zero_grad()
        model(x).square().mean().backward()
        for at, parameter in enumerate(parameters):
            assert parameter.grad is not None and parameter.grad.dtype == dtype
            went[at] += plain[at].double()
            came[at] += parameter.grad.double()
    for at, parameter in enumerate(parameters):
        state = hook.__self__.states[parameter]  # type: ignore[attr-defined]
        kept = torch.zeros(()) if state is None else state.residual.double().view(-1)
        rounding = 1e-5 if dtype == torch.float64 else 2**-7
        off = as_it_lies(came[at] - went[at], parameter) + kept
        assert off.norm() <= rounding * went[at].norm()


def test_an_unknown_codec_is_refused_at_once() -> None:
    with pytest.raises(UnknownName, match="did you mean 'int8'"):
        ddp_hook("int9")
