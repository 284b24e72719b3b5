"""Codecs under torch's DistributedDataParallel: `ddp_model.register_comm_hook(None, ddp_hook("int8"))`.

Each parameter has a state of its own, kept by the parameter: DDP makes other buckets of them after the first step, and
nothing is lost then. PowerSGD averages its factors over all ranks, two all-reduces a bucket; every other codec's packets
are gathered by all, and what they decode to is averaged in the order of the ranks, so that all ranks have the same bits.
A gradient that a codec cannot carry (NaN, Inf) becomes NaN on all ranks, as it would without a hook, and no state knows
of it. Values are taken as they lie in the bucket: those of a transposed parameter are another matrix for PowerSGD. What
feedback keeps is each rank's own: `hook.state_dict(model)` goes into that rank's checkpoint.
"""
# Annotations are not strings here: DDP compares a hook's with its classes.

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel
from torch.utils.weak import WeakIdKeyDictionary

from plesio.codecs import Codec, ErrorFeedback, Packet, accumulate, load_state, parse, save_state, with_feedback
from plesio.codecs.compose import FeedbackState
from plesio.codecs.powersgd import PowerSGD
from plesio.errors import CodecError, UserError

REFUSED = bytes(4)  # where a packet has the length of its header, which is never 0

Rounds = Generator[Tensor, Tensor, tuple[Tensor, Tensor, Tensor | None]]


class Hook(ABC):
    """What DDP calls with each bucket. Owns the codec's states, one a parameter."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.states: MutableMapping[Tensor, Any] = WeakIdKeyDictionary()
        self.__name__ = self.__qualname__ = "ddp_hook"  # DDP asks for both

    @abstractmethod
    def __call__(self, state: dist.ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
        """The bucket's averaged gradients, in its buffer."""

    def state_dict(self, model: torch.nn.Module) -> dict[str, Tensor]:
        """What this rank's codec remembers, by names of the model's parameters. model: under DDP, or the one in it."""
        return {
            f"{name}/{part}": tensor
            for name, parameter in _named(model).items()
            if parameter in self.states
            for part, tensor in save_state(self.codec, self.states[parameter]).items()
        }

    def load_state_dict(self, model: torch.nn.Module, saved: Mapping[str, Tensor]) -> None:
        """Goes on from what the same rank saved. CodecError, and no change, for that of another codec or model."""
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in saved.items():
            name, _, part = key.rpartition("/")
            parts.setdefault(name, {})[part] = tensor
        parameters = _named(model)
        if unknown := sorted({*parts} - {*parameters}):
            raise CodecError(f"ddp_hook was given states of {unknown}, which the model has not; load what it saved itself")
        loaded = {name: self._loaded(name, parameters[name], each) for name, each in parts.items()}
        self.states.clear()
        self.states.update((parameters[name], state) for name, state in loaded.items())

    def _loaded(self, name: str, parameter: Tensor, parts: Mapping[str, Tensor]) -> Any:
        try:
            return load_state(self.codec, parameter.detach(), parts)
        except CodecError as error:
            raise CodecError(f"of the parameter {name!r}: {error}") from error


def _named(model: torch.nn.Module) -> dict[str, Tensor]:
    return dict((model.module if isinstance(model, DistributedDataParallel) else model).named_parameters())


def ddp_hook(codec: Codec | str) -> Hook:
    """A hook for one model's `register_comm_hook(state, hook)`; state: the process group, or None for the default one.

    codec: the same on all ranks, or its text; one that loses something gets feedback. Raises UserError for a bad text,
    and for one whose packets vary in length. byrole goes by shapes: a hook knows no names.
    """
    whole = with_feedback(parse(codec) if isinstance(codec, str) else codec)
    if whole.varies:
        raise UserError(f"ddp_hook needs packets of one length, and those of {whole!r} vary; leave out zstd or adaptive")
    if isinstance(whole, ErrorFeedback) and isinstance(whole.codec, PowerSGD):
        return AveragedFactors(whole, whole.codec)
    return GatheredPackets(whole)


class GatheredPackets(Hook):
    """Packets of all ranks at all ranks."""

    def __call__(self, state: dist.ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
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


class AveragedFactors(Hook):
    """PowerSGD's collective form under feedback: a rank keeps what of its own the common factors do not span."""

    def __init__(self, codec: ErrorFeedback, power: PowerSGD) -> None:
        super().__init__(codec)
        self.power, self.decay = power, codec.decay

    def __call__(self, state: dist.ProcessGroup | None, bucket: GradBucket) -> Future[Tensor]:
        """The bucket's averaged gradients, in its buffer. It waits: rounds that overlap would mix up on some backends."""
        parameters, gradients = bucket.parameters(), bucket.gradients()
        states = [self._state(*each) for each in zip(parameters, gradients, strict=True)]
        carried = [torch.add(g, s.residual, alpha=self.decay) for g, s in zip(gradients, states, strict=True)]
        rounds = [self.power.rounds(c, s.inner) for c, s in zip(carried, states, strict=True)]
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
        found: FeedbackState = self.states.get(parameter) or self.codec.init(gradient)
        return found


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
