"""What all processes of a run have in common: taken from the main process, or compared with what it has.

Outside a process group nothing is sent and nothing can differ.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nano_hindi.common import World
from nano_hindi.errors import UserError

Result = TypeVar("Result")
SAMPLES, SAMPLE_BYTES = 256, 4096  # of a large file: a megabyte tells it from others and is read in no time


def from_main(world: World, work: Callable[[], Result]) -> Result:
    """What `work()` returns on the main process, for every process; tensors arrive on the CPU. Collective.

    A UserError or OSError of `work` is raised on every process: none is left waiting for one that has gone.
    """
    if not dist.is_initialized():
        return work()
    result, error = None, None
    if world.is_main:
        try:
            result = work()
        except (UserError, OSError) as failure:
            error = failure
    tensors: list[Tensor] = []
    message = [_pickled((result, error), tensors) if world.is_main else None]
    dist.broadcast_object_list(message)
    if not world.is_main:
        result, error = _unpickled(message[0], tensors)
    if error is not None:
        raise error
    for tensor in tensors:  # each by itself: a whole checkpoint need not fit the device
        sent = tensor.to(world.device).contiguous()
        dist.broadcast(sent, src=0)
        if not world.is_main:
            tensor.copy_(sent)
    return result


def _pickled(value: object, tensors: list[Tensor]) -> bytes:
    """`value` without the content of its tensors, which are appended to `tensors`."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, part):
            if isinstance(part, Tensor):
                tensors.append(part)
                return part.shape, part.dtype
            return None

    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    return buffer.getvalue()


def _unpickled(message: bytes, tensors: list[Tensor]) -> object:
    """The value again, with new tensors to be filled, in the same order."""

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, form):
            tensors.append(torch.empty(form[0], dtype=form[1]))
            return tensors[-1]

    return Unpickler(io.BytesIO(message)).load()


def require_same(world: World, what: str, facts: dict[str, object], remedy: str) -> None:
    """Compare the facts of every process with those of the main one. Collective. Raises UserError, on every process, that names who differs in what."""
    if not dist.is_initialized():
        return
    everyone: list = [None] * world.size
    dist.all_gather_object(everyone, (socket.gethostname(), facts))
    main_host, expected = everyone[0]
    others = []
    for rank, (host, found) in enumerate(everyone):
        if different := [key for key in expected if found.get(key) != expected[key]]:
            more = f" and {len(different) - 3} more" if len(different) > 3 else ""
            others.append(f"process {rank} on {host} ({', '.join(different[:3])}{more})")
    if others:
        raise UserError(f"not the {what} of process 0 on {main_host}: {'; '.join(others)}; {remedy}")


def weight_sums(model: nn.Module) -> dict[str, int]:
    """The sum of the bit patterns of each parameter, modulo 2**64: equal weights have equal sums, and any one changed weight changes its own."""
    sums = [p.detach().view(torch.int32).sum(dtype=torch.int64) for p in model.parameters()]
    return dict(zip((name for name, _ in model.named_parameters()), torch.stack(sums).tolist(), strict=True))


def file_digest(path: Path) -> str:
    """A fingerprint of a large file: its length, and samples spread evenly from its first byte to its last."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open(path, "rb") as file:
        for i in range(SAMPLES):
            file.seek(max(0, size - SAMPLE_BYTES) * i // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
