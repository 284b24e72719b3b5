"""The one exception tree of plesio. A message says what happened, to whom, and what to do.

The docstring of an exception is its default message. `exit_code` is what a command ends with:
2 for a mistake of the user, 1 for everything else.
"""

from __future__ import annotations


class PlesioError(Exception):
    """plesio could not go on."""

    exit_code = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class UserError(PlesioError):
    """The input cannot be used as it is."""

    exit_code = 2


class UnknownName(UserError):
    """No such name is registered."""


class ModelMismatch(UserError):
    """The model differs from the one that this run trains."""


class AccessRefused(UserError):
    """The other side does not take us; trying again is of no use."""


class TokenRefused(AccessRefused):
    """The token does not match the coordinator's."""


class ProtocolRefused(AccessRefused):
    """The two sides have no protocol version in common; install the same plesio everywhere."""


class TlsRefused(AccessRefused):
    """One side does not trust the other's certificate, or does not speak TLS; give both the right --tls."""


class PortInUse(UserError):
    """The port is already in use; choose another with --listen HOST:PORT."""


class CodecError(PlesioError):
    """The bytes are not a packet of this codec."""


class WireError(PlesioError):
    """The peer sent bytes that break the protocol."""


class CannotSend(UserError):
    """The value cannot travel between processes; send plain values, arrays and tensors."""


class ValueRefused(WireError):
    """The bytes are not an encoded value."""


class SegmentGone(ValueRefused):
    """The shared segment that holds a part of the value was dropped; compute the value again."""


class OutputFailed(PlesioError):
    """The output cannot be written; see whether the disk is full or read-only."""


class StoreError(PlesioError):
    """The journal cannot be written; see whether the disk is full or read-only."""


class Fenced(StoreError):
    """Another coordinator leads: this one's epoch is older, so its write was refused."""


class TaskFailed(PlesioError):
    """A task failed for good. kind: a word for how, see core/pool/outcome.py."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind = kind
        self.message = message


class TaskCancelled(TaskFailed):
    """The task was cancelled."""


class QueueFull(PlesioError):
    """The queue takes no more for now. retry_s: there may be room then."""

    def __init__(self, message: str | None = None, retry_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class LeaseLost(PlesioError):
    """The pool took this from its holder, of whom it heard nothing for too long; what was done since may clash."""


class WouldDeadlock(PlesioError):
    """This wait would never end: all who could end it wait for each other."""


class InternalError(PlesioError):
    """plesio broke one of its own invariants; please report it with the run directory."""


class Stopped(BaseException):
    """Raised in a task that is to stop; not an Exception, so that a task's own handlers let it through."""
