"""Two processes under DistributedDataParallel with gloo, their gradients as packets."""

from __future__ import annotations

import os
import re
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

from plesio.errors import CodecError, UnknownName, UserError
from plesio.training import ddp_hook

DOCS = Path(__file__).parents[2] / "docs" / "codecs.md"
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
        state = hook.states[parameter]
        kept = torch.zeros(()) if state is None else state.residual.double().view(-1)
        rounding = 1e-5 if dtype == torch.float64 else 2**-7
        off = as_it_lies(came[at] - went[at], parameter) + kept
        assert off.norm() <= rounding * went[at].norm()


def stepped(model: DistributedDataParallel, step: int) -> dict[str, Tensor]:
    """The gradients of one step."""
    model.zero_grad()
    x = torch.randn(6, 30, generator=torch.Generator().manual_seed(step))
    model(x).square().mean().backward()
    return {name: each.grad.clone() for name, each in model.module.named_parameters() if each.grad is not None}


def hooked(codec: str, group: dist.ProcessGroup) -> tuple[DistributedDataParallel, Any]:
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 8)))
    hook = ddp_hook(codec)
    model.register_comm_hook(group, hook)
    return model, hook


@pytest.mark.parametrize("codec", ["none", "int8", "topk(1/4)+sr(codebook)", "powersgd(2)", "ef(powersgd(1)+int8, 0.9)"])
def test_feedback_in_a_checkpoint_goes_on_where_it_was(alone: dist.ProcessGroup, codec: str, tmp_path: Path) -> None:
    model, hook = hooked(codec, alone)
    for step in range(3):
        stepped(model, step)
    torch.save({"hook": hook.state_dict(model)}, tmp_path / "checkpoint.pt")
    expected = [stepped(model, step) for step in (3, 4, 5)]
    after, its_hook = hooked(codec, alone)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["hook"]
    its_hook.load_state_dict(after.module, saved)
    for step, wanted in zip((3, 4, 5), expected, strict=True):
        found = stepped(after, step)
        assert all(torch.equal(found[name], each) for name, each in wanted.items())
    anew = stepped(hooked(codec, alone)[0], 3)
    assert codec == "none" or not torch.equal(anew["0.weight"], expected[0]["0.weight"]), "else the above says nothing"


def test_the_checkpoint_of_the_docs_is_written_and_read(
    alone: dist.ProcessGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    register, keep = (block for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL) if "hook" in block)
    model = DistributedDataParallel(nn.Linear(30, 40))
    names: dict[str, Any] = {"torch": torch, "ddp_model": model, "rank": 0}
    exec(register, names)
    stepped(model, 0)
    before = names["hook"].states[model.module.weight].residual
    exec(keep, names)
    after = names["hook"].states[model.module.weight].residual
    assert after is not before and torch.equal(after, before) and bool(after.any())


def test_a_checkpoint_of_another_codec_or_model_is_refused_and_changes_nothing(alone: dist.ProcessGroup) -> None:
    model, hook = hooked("int8", alone)
    stepped(model, 0)
    saved = hook.state_dict(model)
    before = dict(hook.states.items())
    with pytest.raises(CodecError, match=r"parameter '0.weight': codec ef\(int4\) was given the state of 'ef\(int8\)'"):
        ddp_hook("int4").load_state_dict(model, saved)
    with pytest.raises(CodecError, match=r"of the parameter '2.weight': .* of shape \(8, 40\)"):
        hook.load_state_dict(model, {**saved, "2.weight/state.residual": torch.zeros(3)})
    with pytest.raises(CodecError, match=r"states of \['4.weight'\], which the model has not"):
        hook.load_state_dict(model, {**saved, "4.weight/codec": saved["0.weight/codec"]})
    assert all(hook.states[parameter] is state for parameter, state in before.items())


def test_a_codec_that_is_unknown_or_does_not_fit_is_refused_at_once() -> None:
    with pytest.raises(UserError, match=re.escape("those of ef(int8+zstd) vary")):
        ddp_hook("int8+zstd")
    with pytest.raises(UnknownName, match="did you mean 'int8'"):
        ddp_hook("int9")
