"""Codecs under torch's DistributedDataParallel: `ddp_model.register_comm_hook(None, ddp_hook("int8"))`.

Each parameter has a state of its own, kept by the parameter: DDP makes other buckets of them after the first step, and
nothing is lost then. PowerSGD averages its factors over all ranks, two all-reduces a bucket; every other codec's packets
are gathered by all, and what they decode to is averaged in the order of the ranks, so that all ranks have the same bits.
A gradient that a codec cannot carry (NaN, Inf) becomes NaN on all ranks, as it would without a hook, and no state knows
of it. Values are taken as they lie in the bucket: those of a transposed parameter are another matrix for PowerSGD. States
are not checkpointed: who starts anew loses what feedback still kept.
"""
# Annotations are not strings here: DDP compares a hook's with its classes.

import functools
from collections.abc import Callable, Generator, MutableMapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.futures import Future
from torch.utils.weak import WeakIdKeyDictionary

from plesio.codecs import Codec, ErrorFeedback, Packet, accumulate, parse, with_feedback
from plesio.codecs.compose import FeedbackState
from plesio.codecs.powersgd import PowerSGD
from plesio.errors import CodecError

REFUSED = bytes(4)  # where a packet has the length of its header, which is never 0

Hook = Callable[[dist.ProcessGroup | None, GradBucket], Future[Tensor]]
Rounds = Generator[Tensor, Tensor, tuple[Tensor, Tensor, Tensor | None]]


def ddp_hook(codec: Codec | str) -> Hook:
    """A hook for one model's `register_comm_hook(state, hook)`; state: the process group, or None for the default one.

    codec: the same on all ranks, or its text; one that loses something gets feedback. Raises UserError for a bad text.
    """
    whole = with_feedback(parse(codec) if isinstance(codec, str) else codec)
    if isinstance(whole, ErrorFeedback) and isinstance(whole.codec, PowerSGD):
        return AveragedFactors(whole.codec, whole.decay).hook
    return GatheredPackets(whole).hook


class GatheredPackets:
    """Packets of all ranks at all ranks. Owns the codec's states."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.states: MutableMapping[Tensor, Any] = WeakIdKeyDictionary()

    def hook(self, state: dist.ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
        """The bucket's averaged gradients, in its buffer. Encodes at once; decodes when all packets are there."""
        group, buffer, gradients = _group(state), bucket.buffer(), bucket.gradients()
        sizes = [self.codec.wire_bytes(each.shape, each.dtype) for each in gradients]
        sent = torch.zeros(sum(sizes), dtype=torch.uint8)
        parameters = bucket.parameters()
        after = [self._write(*each) for each in zip(parameters, gradients, torch.split(sent, sizes), strict=True)]
        place = buffer.device if dist.get_backend(group) == "nccl" else torch.device("cpu")
        gathered = [torch.empty(len(sent), dtype=torch.uint8, device=place) for _ in range(group.size())]
        work = dist.all_gather(gathered, sent.to(place), group=group, async_op=True)

        def averaged(done: Future[Any]) -> Tensor:
            done.value()  # raises what the gathering raised
            rows = [torch.split(row.cpu(), sizes) for row in gathered]
            for parameter, gradient, next_state, *packets in zip(parameters, gradients, after, *rows, strict=True):
                if _average(gradient, [packet.numpy().data for packet in packets]):
                    self.states[parameter] = next_state
            return buffer

        future: Future[Tensor] = work.get_future().then(averaged)
        return future

    def _write(self, parameter: Tensor, gradient: Tensor, slot: Tensor) -> Any:
        """The next state. Fills slot, zeros, with the packet; it stays as it is where the codec refuses the gradient."""
        if parameter not in self.states:
            self.states[parameter] = self.codec.init(gradient)
        try:
            packet, after = self.codec.encode(gradient, self.states[parameter])
        except CodecError:  # the others wait for this rank, and learn it from the zeros
            return None
        slot.copy_(torch.frombuffer(bytearray(packet.to_bytes()), dtype=torch.uint8))
        return after


def _average(gradient: Tensor, packets: Sequence[memoryview]) -> bool:
    """Sets gradient to the mean of what packets, one a rank, stand for; to NaN, and False, when a rank refused its own."""
    if any(packet[: len(REFUSED)] == REFUSED for packet in packets):
        gradient.fill_(torch.nan)
        return False
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    mean = torch.zeros(gradient.shape, dtype=dtype, device=gradient.device)
    for packet in packets:
        accumulate(Packet.from_bytes(packet), mean, 1 / len(packets))
    gradient.copy_(mean)
    return True


class AveragedFactors:
    """PowerSGD's collective form under feedback: a rank keeps what of its own the common factors do not span."""

    def __init__(self, codec: PowerSGD, decay: float) -> None:
        self.codec, self.decay = codec, decay
        self.states: MutableMapping[Tensor, FeedbackState] = WeakIdKeyDictionary()

    def hook(self, state: dist.ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
        """The bucket's averaged gradients, in its buffer. It waits: rounds that overlap would mix up on some backends."""
        parameters, gradients = bucket.parameters(), bucket.gradients()
        states = [self._state(*each) for each in zip(parameters, gradients, strict=True)]
        carried = [torch.add(g, s.residual, alpha=self.decay) for g, s in zip(gradients, states, strict=True)]
        rounds = [self.codec.rounds(c, s.inner) for c, s in zip(carried, states, strict=True)]
        results = in_step(rounds, functools.partial(_all_averaged, group=_group(state)))
        for parameter, gradient, came, (mean, own, inner) in zip(parameters, gradients, carried, results, strict=True):
            if bool(mean.isfinite().all()):
                gradient.copy_(mean)
                self.states[parameter] = FeedbackState(came - own, inner)
            else:
                gradient.fill_(torch.nan)
        future: Future[Tensor] = Future()
        future.set_result(bucket.buffer())
        return future

    def _state(self, parameter: Tensor, gradient: Tensor) -> FeedbackState:
        return self.states.get(parameter) or ErrorFeedback(self.codec).init(gradient)


def in_step(rounds: Sequence[Rounds], averaged: Callable[[list[Tensor]], list[Tensor]]) -> list[Any]:
    """What each returns; in each round all that they ask for is averaged at once."""
    results: list[Any] = [None] * len(rounds)
    asked = {at: next(each) for at, each in enumerate(rounds)}
    while asked:
        means, following = averaged(list(asked.values())), {}
        for at, mean in zip(asked, means, strict=True):
            try:
                following[at] = rounds[at].send(mean)
            except StopIteration as ended:
                results[at] = ended.value
        asked = following
    return results


def _all_averaged(tensors: list[Tensor], group: dist.ProcessGroup) -> list[Tensor]:
    """Their means over all ranks, by one all-reduce."""
    flat = torch.cat([each.reshape(-1) for each in tensors])
    dist.all_reduce(flat, group=group)
    parts = torch.split(flat.div_(group.size()), [each.numel() for each in tensors])
    return [part.view(each.shape).to(each.dtype) for part, each in zip(parts, tensors, strict=True)]


def _group(state: dist.ProcessGroup | None) -> dist.ProcessGroup:
    found = state if state is not None else dist.group.WORLD
    assert found is not None, "DDP has a process group"
    return found
