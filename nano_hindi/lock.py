"""One program at a time in a folder: a lock of the operating system, which a process that dies gives up by itself."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from nano_hindi.common import World
from nano_hindi.errors import UserError

LOCK = ".lock"
FACTS = ".lock.txt"  # who holds it: Windows lets nobody read a locked file
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # some network drives


@contextlib.contextmanager
def only_run_in(folder: Path, world: World) -> Iterator[None]:
    """Keep other runs out of `folder`, made where it is not there, until the block ends. A block that leaves nothing in a new folder leaves no folder.

    Raises UserError, on every process, where another run is in it.
    """
    from nano_hindi.agreement import from_main

    with contextlib.ExitStack() as held:
        from_main(world, lambda: held.enter_context(locked(folder, "is training there", "--checkpoint_dir", world.print)))
        yield


@contextlib.contextmanager
def locked(folder: Path, work: str, flag: str, tell: Callable[[str], None] = print) -> Iterator[None]:
    """Keep other processes that ask for it out of `folder`, as `only_run_in` does. `work` says in the error what the holder does, `flag` names the folder."""
    new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"{folder} is in use: {_holder(folder)} {work}; let it end or stop it, or choose another {flag}") from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            tell(f"notice: {folder} lies on a drive without file locks; let no second run use it")
        try:
            (folder / FACTS).write_text(f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')},", encoding="utf-8")
            yield
        finally:
            for name in (FACTS, LOCK):  # while it is held: whoever comes next makes a new one
                with contextlib.suppress(OSError):
                    (folder / name).unlink()
            lock.release()
    finally:
        for path in new_folders:
            with contextlib.suppress(OSError):
                path.rmdir()  # only where it is empty


def _holder(folder: Path) -> str:
    try:
        return (folder / FACTS).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return "another process"
