"""How the tensor at a cut becomes bytes, and comes back with a stated error: `branchynet.codecs.names` knows them all.

May import errors only; torch is needed to train a bottleneck, not to send one."""

from branchynet.codecs.bottleneck import BOTTLENECK, BottleneckCodec, BottleneckShape
from branchynet.codecs.names import check_cut, is_calibrated, named_codec
from branchynet.codecs.payload import Codec, Payload
from branchynet.codecs.ranges import FixedRanges

__all__ = [
    "BOTTLENECK",
    "BottleneckCodec",
    "BottleneckShape",
    "Codec",
    "FixedRanges",
    "Payload",
    "check_cut",
    "is_calibrated",
    "named_codec",
]
