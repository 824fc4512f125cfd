"""The ranks of a run, and checks that all ranks have the same data. Without a process group,
nothing is sent or compared.

torch is imported inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import pickle
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nano_hindi.common import pick_device, visible
from nano_hindi.errors import UserError, first_line
from nano_hindi.locks import locked, locked_for_reading

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist
    from torch import Tensor, nn

Result = TypeVar("Result")
_TORCHRUN_HINT = (
    "torchrun sets RANK and related variables: start `torchrun --nproc_per_node=N train.py ...`, or unset RANK and LOCAL_RANK to train on one device"
)


@dataclass(frozen=True)
class World:
    """A rank's view of the run: its rank, the number of ranks, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def print(self, line: str) -> None:
        """Print a line on rank 0 only."""
        if self.is_main:
            print(visible(line), flush=True)


@contextlib.contextmanager
def joined_world(device_name: str | None) -> Iterator[World]:
    """Yield the World of this rank: a single rank, or one of those that torchrun started. The
    process group ends with the block.

    `device_name` is "cpu", "cuda", or None for CUDA if there is one. Raises UserError if the device
    is not available, if the ranks cannot connect, or if another rank fails. Gloo does not notice
    about one such failure in a hundred: torchrun kills the rank after 30 seconds.
    """
    local_rank, started_by_torchrun = _check_torchrun()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _stop_with_torchrun()
    import torch.distributed as dist

    device = pick_device(device_name, local_rank)
    if not started_by_torchrun:
        yield World(0, 1, device)
        return
    nccl = device.type == "cuda" and dist.is_nccl_available()
    try:
        store, rank, size = next(dist.rendezvous("env://"))
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            store = _store_of_this_start(store, rank, size)
        dist.init_process_group("nccl" if nccl else "gloo", store=store, rank=rank, world_size=size, device_id=device if nccl else None)
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(f"the ranks cannot connect at {address} ({first_line(error)}); {_TORCHRUN_HINT}") from error
    try:
        yield World(rank, size, device)
        dist.barrier()  # no rank exits while another one still saves or samples
    except RuntimeError as error:
        if not is_lost_rank(error):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it at once: first say what happened, and exit
        # without gloo's place in its source and the port: then all ranks have the same line
        reason = re.sub(r"^\[\S+\] |(?<=\]):\d+", "", first_line(error)).split(". ")[0]
        raise UserError(
            f"another rank of this run has exited ({reason}): torchrun names the first rank that failed under Root Cause. "
            "To resume from the newest checkpoint, run the same command with --resume auto"
        ) from error
    finally:
        dist.destroy_process_group()
        gc.collect()  # frees gloo's threads now: at exit, some would be killed with SIGABRT


def _stop_with_torchrun() -> None:
    """Send this rank SIGTERM once torchrun has been killed. Else the ranks would train on without a
    terminal, whose Ctrl-C they do not receive, or wait for torchrun's store."""
    torchrun = os.getppid()

    def watch() -> None:
        while os.getppid() == torchrun:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    # not Linux's PR_SET_PDEATHSIG: it comes again for each thread of torchrun that ends, perhaps
    # after the handlers of `StopSignal`
    threading.Thread(target=watch, name="torchrun", daemon=True).start()


def is_lost_rank(error: BaseException) -> bool:
    """Return whether a collective failed because another rank is gone; gloo raises plain
    RuntimeErrors."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _store_of_this_start(store: dist.Store, rank: int, size: int) -> dist.Store:
    """Return `store` under a prefix that no earlier start of this job has used. Raises
    DistStoreError if not all ranks connect in time.

    torchrun keeps its store when it restarts the ranks, so a rank could read the address that
    another rank had before the restart, and fail (pytorch/pytorch#167288).
    TORCHELASTIC_RESTART_COUNT cannot be the prefix: each machine counts its own restarts. So every
    other rank posts a call with a new unique id, and rank 0 answers every call with the new prefix
    until all ranks of this start have it. It answers every call, because calls of an earlier start
    may still be in the store.
    """
    import torch.distributed as dist

    if rank:
        call = uuid.uuid4().hex
        store.set(f"call/{rank}", call)
        prefix = store.get(f"answer/{call}").decode()
        store.set(f"{prefix}/{rank}", "has it")
        return dist.PrefixStore(prefix, store)
    prefix, end = uuid.uuid4().hex, time.monotonic() + store.timeout.total_seconds()  # type: ignore[attr-defined] # not in torch's stubs
    while not all(store.check([f"{prefix}/{other}"]) for other in range(1, size)):
        for other in range(1, size):
            if store.check([f"call/{other}"]):
                store.set(f"answer/{store.get(f'call/{other}').decode()}", prefix)
        if time.monotonic() > end:
            raise dist.DistStoreError(f"not all {size} ranks have connected")
        time.sleep(0.01)
    return dist.PrefixStore(prefix, store)


def _check_torchrun() -> tuple[int, bool]:
    """Return LOCAL_RANK, and whether torchrun started this process.

    Raises UserError for variables that torchrun would not set: torch would wait for a long time, or
    fail with a traceback.
    """
    names = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT")
    given = {name: os.environ[name] for name in names if name in os.environ}
    for name, value in given.items():
        if not value.isdecimal():
            raise UserError(f"{name}={value!r} is not a whole number; {_TORCHRUN_HINT}")
    if "RANK" in given:
        if missing := [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
            raise UserError(f"RANK is set, but {', '.join(missing)} is not; {_TORCHRUN_HINT}")
        if int(given["RANK"]) >= int(given["WORLD_SIZE"]):
            raise UserError(f"RANK={given['RANK']} is not below WORLD_SIZE={given['WORLD_SIZE']}, the number of ranks; {_TORCHRUN_HINT}")
    return int(given.get("LOCAL_RANK", 0)), "RANK" in given


# ---- what all ranks share: broadcast from rank 0, or compared with rank 0


def from_main(world: World, work: Callable[[], Result]) -> Result:
    """Return on every rank what `work()` returns on rank 0; tensors arrive on the CPU. Collective.

    A UserError or OSError of `work` is raised on every rank, so that none waits for a rank that has
    exited.
    """
    import torch.distributed as dist

    if not dist.is_initialized():
        return work()
    result: Any = None
    error: Exception | None = None
    if world.is_main:
        try:
            result = work()
        except (UserError, OSError) as failure:
            error = failure
    tensors: list[Tensor] = []
    message: list[Any] = [_pickled((result, error), tensors) if world.is_main else None]
    dist.broadcast_object_list(message)
    if not world.is_main:
        result, error = _unpickled(message[0], tensors)
    if error is not None:
        raise error
    for tensor in tensors:  # one at a time: a whole checkpoint may not fit on the device
        sent = tensor.to(world.device).contiguous()
        dist.broadcast(sent, src=0)
        if not world.is_main:
            tensor.copy_(sent)
    return result


def _pickled(value: object, tensors: list[Tensor]) -> bytes:
    """Return `value` pickled without the data of its tensors, which are appended to `tensors`."""
    from torch import Tensor

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: object) -> object:
            if isinstance(item, Tensor):
                tensors.append(item)
                return item.shape, item.dtype
            return None

    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    return buffer.getvalue()


def _unpickled(message: bytes, tensors: list[Tensor]) -> Any:
    """Return the unpickled value. Its tensors are new and unfilled, and are appended to `tensors`
    in the same order."""
    import torch

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, form: tuple[torch.Size, torch.dtype]) -> Tensor:
            tensors.append(torch.empty(form[0], dtype=form[1]))
            return tensors[-1]

    return Unpickler(io.BytesIO(message)).load()


def require_same(world: World, what: str, values: Mapping[str, object], remedy: str) -> None:
    """Compare the values of every rank with those of rank 0. Collective. Raises a UserError on
    every rank that names which ranks differ in what."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return
    everyone: list = [None] * world.size
    dist.all_gather_object(everyone, (socket.gethostname(), values))
    main_host, expected = everyone[0]
    others = []
    for rank, (host, found) in enumerate(everyone):
        if different := [key for key in {**expected, **found} if found.get(key) != expected.get(key)]:
            more = f" and {len(different) - 3} more" if len(different) > 3 else ""
            others.append(f"rank {rank} on {host} ({', '.join(different[:3])}{more})")
    if others:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it when the first rank exits: each says first what happened
        dist.barrier()
        raise UserError(f"not the same {what} as rank 0 on {main_host}: {'; '.join(others)}; {remedy}")


def weight_sums(model: nn.Module) -> dict[str, int]:
    """Return the sum of the bit patterns of each parameter, modulo 2**64: equal weights have equal
    sums, and one changed weight changes its sum."""
    import torch

    sums = [p.detach().view(torch.int32).sum(dtype=torch.int64) for p in model.parameters()]
    return dict(zip((name for name, _ in model.named_parameters()), torch.stack(sums).tolist(), strict=True))


@contextlib.contextmanager
def only_run_in(folder: Path, world: World) -> Iterator[None]:
    """Keep other runs out of `folder` until the block ends. If the folder is missing, create it;
    remove it at the end if it is still empty.

    Raises UserError on every rank if another run uses it.
    """
    with contextlib.ExitStack() as held:
        from_main(world, lambda: held.enter_context(locked(folder, "is training there", "--checkpoint_dir", world.print)))
        yield


@contextlib.contextmanager
def unchanged_data(folders: Iterable[Path], checkpoint_dir: Path, world: World) -> Iterator[None]:
    """Keep the programs that write data folders out of `folders` until the block ends; other runs
    may read them too.

    Raises UserError if one of them works there.
    """
    with contextlib.ExitStack() as held:
        for folder in folders:
            is_locked = folder.exists() and checkpoint_dir.exists() and folder.samefile(checkpoint_dir)  # by `only_run_in`
            if not is_locked:
                held.enter_context(locked_for_reading(folder, "--data_dir", world.print))
        yield
