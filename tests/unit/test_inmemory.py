"""A training run in one thread: the bytes are those that codecs predict, and a run is the same each time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from plesio import registry
from plesio.codecs import parse
from plesio.core.spec import RunSpec
from plesio.runtime.fragments import Layout
from plesio.strategies.base import Strategy
from plesio.strategies.presets import Decoupled, DiLoCo, LocalSGD, Sync
from plesio.strategies.schedule import Schedule
from plesio.testing.inmemory import Course, Job, train, warmup_then_cosine

BATCH = 16
BEGINNING = Schedule.of(LocalSGD(every=5), Sync(), 3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def regression() -> Job:
    """y is a function of the first features, with noise; the model begins at a loss of 1.3."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(4096, 32, generator=draw)
    y = torch.tanh(x[:, :4].sum(1, keepdim=True)) + 0.5 * torch.randn(4096, 1, generator=draw)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 40), nn.Tanh(), nn.Linear(40, 1))

    def loss(model: nn.Module, learner: int, step: int) -> torch.Tensor:
        rows = torch.arange(BATCH) + (2 * step + learner) * BATCH % 2048
        return nn.functional.mse_loss(model(x[rows]), y[rows])

    @torch.no_grad()
    def held_out(model: nn.Module) -> float:
        return float(nn.functional.mse_loss(model(x[2048:]), y[2048:]))

    return Job(model, lambda m: torch.optim.SGD(m.parameters(), lr=0.02), loss, held_out, BATCH, lambda step: 0.02)


def spec(schedule: Schedule, tokens: int, uplink: str = "none", downlink: str = "none", gradients: str = "") -> RunSpec:
    return RunSpec(
        run="r", learners=2, schedule=schedule, uplink=uplink, gradient_uplink=gradients, downlink=downlink,
        until_tokens=tokens,
    )  # fmt: skip


def run(
    uplink: str, downlink: str = "none", schedule: Schedule = BEGINNING, rounds: int = 8, gradients: str = ""
) -> Course:
    strategy = schedule.phases[-1].strategy
    start = sum(phase.until_rounds or 0 for phase in schedule.phases)
    tokens = 2 * BATCH * (start + (rounds - start) * strategy.every)
    return train(regression(), spec(schedule, tokens, uplink, downlink, gradients), looks=2)


@pytest.mark.parametrize("text", [*sorted(registry.CODECS), "topk(1/64)+int2", "ef(int8, 0.9)", "byrole()"])
def test_every_push_and_every_change_has_the_length_that_its_codec_predicts(text: str) -> None:
    course = run(text, text)
    layout = Layout.of(list(regression().model.named_parameters()))
    predicted = layout.bound(parse(text)).wire_bytes((layout.numel,), torch.float32)
    assert course.pushes == [predicted] * 16 and course.downs == [predicted] * 8


def test_gradients_may_go_by_a_codec_of_their_own() -> None:
    layout = Layout.of(list(regression().model.named_parameters()))
    sizes = [layout.bound(parse(text)).wire_bytes((layout.numel,), torch.float32) for text in ("int8", "sign")]
    assert run("sign", gradients="int8").pushes == [sizes[0]] * 6 + [sizes[1]] * 10
    assert run("sign", gradients="sign") == run("sign")


@pytest.mark.parametrize("text", ["int4", "topk(1/16)+int8"])
def test_feedback_that_was_asked_for_is_the_feedback_that_is_there_anyhow_both_ways(text: str) -> None:
    assert run(f"ef({text})", f"ef({text})") == run(text, text)


def test_int8_ends_where_float32_does_and_a_run_is_the_same_each_time() -> None:
    schedule = Schedule.of(DiLoCo(every=10), Sync(), 20)
    plain, coded, again = (run(codec, codec, schedule, 60) for codec in ("none", "int8", "int8"))
    job = regression()
    assert plain.losses[-1][1] < 0.4 * job.held_out(job.model)
    assert coded.losses[-1][1] == pytest.approx(plain.losses[-1][1], rel=5e-3)
    assert coded == again and coded != plain


def linear() -> Job:
    """64 weights that a round of 30 steps nearly finds: the loss falls from 3.6 to the noise's .09."""
    draw = torch.Generator().manual_seed(1)
    weights = torch.randn(64, 1, generator=draw) * 0.225
    x = torch.randn(8192, 64, generator=draw)
    y = x @ weights + 0.3 * torch.randn(8192, 1, generator=draw)
    torch.manual_seed(0)

    def loss(model: nn.Module, learner: int, step: int) -> torch.Tensor:
        rows = torch.arange(BATCH) + (2 * step + learner) * BATCH % 6144
        return nn.functional.mse_loss(model(x[rows]), y[rows])

    @torch.no_grad()
    def held_out(model: nn.Module) -> float:
        return float(nn.functional.mse_loss(model(x[6144:]), y[6144:]))

    return Job(
        nn.Linear(64, 1), lambda m: torch.optim.SGD(m.parameters(), lr=0.01), loss, held_out, BATCH, lambda step: 0.01
    )


@pytest.mark.parametrize("text", ["sign", "topk(1/16)+int4"])
def test_what_arrives_rounds_late_does_not_overshoot_with_outer_momentum_either(text: str) -> None:
    """Learners go on from what they sent and what was lost of it: who does not know that sends it again and again."""
    start = linear().held_out(linear().model)
    for strategy in (Decoupled(every=30), Decoupled(every=30, momentum=0.0, lr=1.0)):
        asked = spec(Schedule.of(strategy, Sync(), 60), 30_000, text, "int8", gradients="int8")
        assert train(linear(), asked, looks=1).losses[-1][1] < start / 25


def test_one_round_of_plain_averaging_is_the_mean_of_what_each_learner_would_have_done_alone() -> None:
    job = regression()
    ends = []
    for learner in range(2):
        model = regression().model
        optimizer = job.optimizer(model)
        for step in range(5):
            optimizer.zero_grad()
            job.loss(model, learner, step).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        ends.append(model)
    with torch.no_grad():
        mean = regression().model
        for ours, one, two in zip(mean.parameters(), *(end.parameters() for end in ends), strict=True):
            ours.copy_((one + two) / 2)
    course = train(job, spec(Schedule.of(LocalSGD(every=5)), 2 * 5 * BATCH))
    assert course.losses == [(2 * 5 * BATCH, pytest.approx(job.held_out(mean), rel=1e-6))]


@pytest.mark.parametrize("strategy", [Decoupled(every=5), LocalSGD(every=5)], ids=lambda s: s.name)
def test_it_ends_with_the_first_round_that_has_enough_tokens(strategy: Strategy) -> None:
    course = train(regression(), spec(Schedule.of(strategy, Sync(), 3), 2 * BATCH * 10, "int8"))
    assert [tokens for tokens, _ in course.losses][-1] == 2 * BATCH * 13 and len(course.pushes) == 2 * (3 + 2)


def test_the_rate_rises_in_a_line_and_falls_to_a_tenth() -> None:
    rate = warmup_then_cosine(1.0, 10, 110)
    assert [rate(0), rate(4), rate(9)] == pytest.approx([0.1, 0.5, 1.0])
    assert [rate(60), rate(110), rate(500)] == pytest.approx([0.55, 0.1, 0.1])
