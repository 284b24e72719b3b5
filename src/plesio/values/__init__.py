"""Values of tasks as bytes, and back: arguments and results, without pickle.

encoding: any value that may travel. arrays: numpy and torch in it. shares: large buffers beside the message, for
processes on one machine. Importing it loads neither numpy nor torch.
"""

from plesio.values.encoding import Ref, decode, decode_call, encode, encode_call, inlined, refs, segments
from plesio.values.shares import Shares

__all__ = ["Ref", "Shares", "decode", "decode_call", "encode", "encode_call", "inlined", "refs", "segments"]
