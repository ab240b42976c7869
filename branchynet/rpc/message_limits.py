"""How large a message may be, and how many samples a request may bring so that its message is no larger."""

from __future__ import annotations

from branchynet.errors import InvalidInput

__all__ = ["MAX_MESSAGE_BYTES", "MESSAGE_OVERHEAD_BYTES", "bounded_batch"]

# gRPC holds a message as a whole at either end, several times over while it is parsed; its own bound is 2 GiB.
MAX_MESSAGE_BYTES = 256 * 1024 * 1024
# Names, shape, rule and framing of a message, beside its tensor.
MESSAGE_OVERHEAD_BYTES = 64 * 1024


def bounded_batch(max_batch: int, sample_bytes: int, limit_bytes: int = MAX_MESSAGE_BYTES) -> tuple[int, int]:
    """Most samples in one request, at most *max_batch*, and the largest message that a node takes for them, in bytes.

    *sample_bytes*: the largest tensor of one sample that is sent, at any cut. *limit_bytes*: the largest message that
    there may be; a server that runs keeps the one it began with. Raises `InvalidInput` if not even one fits into a
    message.
    """
    fitting = (limit_bytes - MESSAGE_OVERHEAD_BYTES) // sample_bytes
    if fitting < 1:
        raise InvalidInput(
            f"one sample takes {sample_bytes} bytes, a message at most {limit_bytes}: scale the images down"
        )
    batch = min(max_batch, fitting)
    return batch, batch * sample_bytes + MESSAGE_OVERHEAD_BYTES
