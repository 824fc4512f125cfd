"""Lock folders: one has a single writer, or any number of readers.

The locks are those of the operating system, which releases them when the process dies.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nano_hindi.common import visible
from nano_hindi.errors import UserError, naming

LOCK = ".lock"
HOLDER = ".lock.txt"  # who has locked the folder: on Windows a locked file cannot be read
_READERS = 64  # at most, of a folder, on Windows
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # on some network drives


@contextlib.contextmanager
def locked(folder: Path, work: str, flag: str, tell: Callable[[str], None] = print) -> Iterator[None]:
    """Lock `folder`, created if missing, against other processes that call this or
    `locked_for_reading`, until the block ends.

    If the folder is new and the block leaves it empty, it is removed. `work` says to other
    processes what this one does, `flag` is the flag that names the folder. Raises UserError if
    another process holds a lock.
    """
    new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = _lock(folder, flag, shared=False)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            tell(visible(f"notice: {folder} is on a drive without file locks; do not use it from a second run"))
        try:
            with naming(folder / HOLDER):
                (folder / HOLDER).write_text(f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}, {work}", encoding="utf-8")
            yield
        finally:
            _unlock(folder, lock, shared=False)
    finally:
        for path in new_folders:
            with contextlib.suppress(OSError):
                path.rmdir()  # only if it is empty


@contextlib.contextmanager
def locked_for_reading(folder: Path, flag: str, tell: Callable[[str], None] = print) -> Iterator[None]:
    """Keep processes that call `locked` out of `folder` until the block ends. Any number of
    processes may do so at once; nothing is locked if there is no such folder.

    Raises UserError if another process has locked the folder. If it cannot be locked, `tell` is
    called with a notice; but not if this user may only read it, and so cannot call `locked` either.
    """
    lock = None
    try:
        lock = _lock(folder, flag, shared=True)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            (folder / LOCK).unlink(missing_ok=True)  # nobody can hold it
        if folder.is_dir() and error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            tell(f"notice: {folder} cannot be locked ({error.strerror}); do not change its files during the run")
    try:
        yield
    finally:
        if lock is not None:
            _unlock(folder, lock, shared=True)


def _lock(folder: Path, flag: str, shared: bool) -> int:
    """Return the descriptor of the folder's lock file, locked. Raises UserError if another process
    holds it."""
    path = folder / LOCK
    for wait in (0.05, 0.1, 0.2):  # a reader that ends holds the lock alone for a moment
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            if not (shared and path.exists()):
                raise
            lock = os.open(path, os.O_RDONLY)
        try:
            is_locked = _try_lock(lock, shared)
            if is_locked and _is_at(lock, path):
                return lock
            has_readers = not (is_locked or shared) and _try_lock(lock, shared=True)
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        time.sleep(wait)
    holder = "a run reads this folder" if has_readers else _holder(folder)
    raise UserError(f"{folder} is in use: {holder}; wait for it, stop it, or choose another {flag}")


def _is_at(lock: int, path: Path) -> bool:
    """Return whether the open file is still at `path`: its last holder may have deleted it."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _try_lock(lock: int, shared: bool) -> bool:
        # there is no shared lock here: a reader locks one free byte of the first _READERS, a writer
        # all of them
        for first, count in ((i, 1) for i in range(_READERS)) if shared else ((0, _READERS),):
            os.lseek(lock, first, os.SEEK_SET)
            try:
                msvcrt.locking(lock, msvcrt.LK_NBLCK, count)
                return True
            except PermissionError:
                pass
        return False

    def _unlock(folder: Path, lock: int | None, shared: bool) -> None:
        if lock is not None:
            os.close(lock)
        for name in (LOCK,) if shared else (HOLDER, LOCK):
            with contextlib.suppress(OSError):  # a file that another process has open stays
                (folder / name).unlink()

else:
    import fcntl

    def _try_lock(lock: int, shared: bool) -> bool:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(folder: Path, lock: int | None, shared: bool) -> None:
        with contextlib.suppress(OSError):
            if lock is None or not shared or _try_lock(lock, shared=False):  # nobody else reads: the next process creates new files
                for name in (HOLDER, LOCK):
                    (folder / name).unlink(missing_ok=True)
        if lock is not None:
            with contextlib.suppress(OSError):  # as Linux does, the file is closed all the same
                os.close(lock)


def _holder(folder: Path) -> str:
    try:
        return (folder / HOLDER).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return "another process works there"
