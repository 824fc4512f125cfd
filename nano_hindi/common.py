"""Device, number format, processes, files, words for people: what every script needs before its own work starts.

torch is imported inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import re
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nano_hindi.errors import UserError

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

IS_WINDOWS = os.name == "nt"


# ---- processes


@dataclass(frozen=True)
class World:
    """The processes of a run: this one's rank, how many there are, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def print(self, *values) -> None:
        """Print on the main process alone."""
        if self.is_main:
            print(*values, flush=True)


@contextlib.contextmanager
def joined_world(device_name: str | None = None) -> Iterator[World]:
    """The World of this process: alone, or one of those that torchrun started. The process group ends with the block.

    `device_name` is "cpu", "cuda", or None for CUDA where there is one. Raises UserError for a device that is not there, where the processes
    do not find each other, and where one of them is lost.
    """
    local_rank, started_by_torchrun = _check_torchrun()
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
        raise UserError(f"the processes do not meet at {address} ({str(error).splitlines()[0][:120]}); {_TORCHRUN_HINT}") from error
    try:
        yield World(rank, size, device)
        dist.barrier()  # nobody leaves while another one still saves or samples
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        reason = re.sub(r"^\[\S+\] ", "", str(error)).splitlines()[0].split(". ")[0][:200]
        raise UserError(
            f"another process of this run is gone ({reason}): torchrun names the first that failed under Root Cause. "
            "The same command with --resume auto goes on from the newest checkpoint"
        ) from error
    finally:
        dist.destroy_process_group()
        gc.collect()  # frees gloo's threads now: at exit some would be ended the hard way, with SIGABRT


def _store_of_this_start(store: dist.Store, rank: int, size: int) -> dist.Store:
    """`store` under a prefix that no earlier start of this job has used. Raises DistStoreError where the processes do not all come.

    torchrun keeps its store when it starts the processes again, and one of them could read the address that another had before, then give up
    (pytorch/pytorch#167288). TORCHELASTIC_RESTART_COUNT is no such prefix: each machine counts for itself. So the others call, by a name that is new,
    and the main process answers every call with the new prefix, until all of this start have it: calls of an earlier start may still lie there.
    """
    import torch.distributed as dist

    if rank:
        call = uuid.uuid4().hex
        store.set(f"call/{rank}", call)
        prefix = store.get(f"answer/{call}").decode()
        store.set(f"{prefix}/{rank}", "has it")
        return dist.PrefixStore(prefix, store)
    prefix, end = uuid.uuid4().hex, time.monotonic() + store.timeout.total_seconds()
    while not all(store.check([f"{prefix}/{other}"]) for other in range(1, size)):
        for other in range(1, size):
            if store.check([f"call/{other}"]):
                store.set(f"answer/{store.get(f'call/{other}').decode()}", prefix)
        if time.monotonic() > end:
            raise dist.DistStoreError(f"not all {size} processes have come")
        time.sleep(0.01)
    return dist.PrefixStore(prefix, store)


_TORCHRUN_HINT = (
    "torchrun sets RANK and its companions: start `torchrun --nproc_per_node=N train.py ...`, or unset RANK and LOCAL_RANK to train alone"
)


def _check_torchrun() -> tuple[int, bool]:
    """LOCAL_RANK, and whether torchrun started this process. Raises UserError for variables it would not set: torch would wait for long, or speak in tracebacks."""
    names = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT")
    given = {name: os.environ[name] for name in names if name in os.environ}
    for name, value in given.items():
        if not value.isdecimal():
            raise UserError(f"{name}={value!r} is no whole number; {_TORCHRUN_HINT}")
    if "RANK" in given:
        if missing := [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
            raise UserError(f"RANK is set, but {', '.join(missing)} is not; {_TORCHRUN_HINT}")
        if int(given["RANK"]) >= int(given["WORLD_SIZE"]):
            raise UserError(f"RANK={given['RANK']} is no rank of WORLD_SIZE={given['WORLD_SIZE']} processes; {_TORCHRUN_HINT}")
    return int(given.get("LOCAL_RANK", 0)), "RANK" in given


def pick_device(name: str | None = None, local_rank: int = 0) -> torch.device:
    """The device to compute on, made current. Raises UserError where it is not there."""
    import torch

    kind = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cpu":
        return torch.device("cpu")
    if kind != "cuda":
        raise UserError(f"there is no device {kind!r} here; use cpu or cuda")
    if not torch.cuda.is_available():
        raise UserError("no CUDA device is usable here (is the driver installed, and this PyTorch a CUDA build?); use --device cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} has no GPU of its own: this machine has {torch.cuda.device_count()}; start torchrun with that --nproc_per_node"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def compute_dtype(device: torch.device) -> torch.dtype:
    """The dtype of the matmuls: bf16 from compute capability 8.0, fp16 (with loss scaling) on 7.x, fp32 elsewhere.

    `torch.cuda.is_bf16_supported()` is not asked: it is true on a T4 too, where bf16 is emulated and slow.
    """
    import torch

    if device.type != "cuda":
        return torch.float32
    major, _ = torch.cuda.get_device_capability(device)
    return torch.bfloat16 if major >= 8 else torch.float16 if major == 7 else torch.float32


def can_compile(device: torch.device) -> str | None:
    """None where torch.compile works on `device`, else the reason in a few words. Finds out by compiling something small."""
    import torch

    @torch.compile
    def probe(x):
        return (x * 2 + 1).relu().sum()

    try:
        x = torch.randn(64, device=device, requires_grad=True)
        probe(x).backward()
    except Exception as error:  # noqa: BLE001 - a missing compiler or Triton shows itself in many types
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.rstrip().endswith("raised:")]
        return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:160]
    return None


# ---- files


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; when the block ends well, what stands there takes the name `path`, on disk to the last byte.

    A block that raises leaves `path` as it was and no temporary file. Raises IsADirectoryError at once, not after the work, where a folder has the name.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """The whole of `text` under the name `path`, in UTF-8 and with plain line ends everywhere, or nothing of it; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def rename(source: Path, target: Path) -> None:
    """os.replace, patient with Windows, where a virus scanner may hold a new file for a moment; then the folder is flushed too."""
    for wait in (0.05, 0.1, 0.2, 0.5, 1.0, None):
        try:
            os.replace(source, target)
            break
        except PermissionError:
            if wait is None or not IS_WINDOWS:
                raise
            time.sleep(wait)
    if not IS_WINDOWS:
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


# ---- words for people


def shown(path: Path) -> str:
    """A path as a person would type it: from the current folder where it lies below that."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def count(n: float) -> str:
    """A count in three digits: 999, 1.20 k, 12.6 M, 500 M, 1.26 B."""
    for limit, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if abs(n) >= limit * 0.9995:
            value = n / limit
            return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}{unit}"
    return f"{n:.0f}"


def duration(seconds: float) -> str:
    """A time span in its two largest units: 45s, 3m 05s, 2h 10m, 3d 4h."""
    s = int(max(0, seconds) + 0.5)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m {s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h {s % 3600 // 60:02d}m"
    return f"{s // 86400}d {s % 86400 // 3600}h"


class Progress:
    """A tqdm bar on a terminal; elsewhere a plain line at most every ten seconds. Use it as a context manager.

    `total` may be None. `update(n, **postfix)` adds n; the postfix is shown behind the rate and the time left.
    """

    def __init__(self, total: float | None, unit: str, description: str, *, quiet_seconds: float = 10.0):
        from tqdm import tqdm

        self.total, self.unit, self.description, self.done, self.postfix = total, unit, description, 0, {}
        self.quiet_seconds, self.start = quiet_seconds, time.monotonic()
        self.last_line = self.start
        is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self.bar = tqdm(total=total, unit=f" {unit}", desc=description, unit_scale=True, dynamic_ncols=True) if is_terminal else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc_info) -> None:
        if self.bar is not None:
            self.bar.close()
        elif exc_info[0] is None:
            self._print_line()

    def update(self, n: float, **postfix) -> None:
        self.done += n
        self.postfix.update(postfix)
        if self.bar is not None:
            self.bar.set_postfix(self.postfix, refresh=False)
            self.bar.update(n)
        elif time.monotonic() - self.last_line >= self.quiet_seconds:
            self._print_line()

    def _print_line(self) -> None:
        self.last_line = time.monotonic()
        elapsed = max(self.last_line - self.start, 1e-9)
        rate = self.done / elapsed
        of_total = f"/{count(self.total)}" if self.total else ""
        left = f", {duration((self.total - self.done) / rate)} left" if self.total and rate > 0 and self.done < self.total else ""
        extra = "".join(f", {key} {value}" for key, value in self.postfix.items())
        print(f"{self.description}: {count(self.done)}{of_total} {self.unit} ({count(rate)}/s{left}){extra}", flush=True)
