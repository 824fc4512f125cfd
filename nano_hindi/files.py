"""Replace files atomically, lock folders, and read and write `key: value` metadata files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nano_hindi.common import IS_WINDOWS
from nano_hindi.errors import UserError, naming

LOCK = ".lock"
HOLDER = ".lock.txt"  # who holds the lock: on Windows a locked file cannot be read
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # on some network drives
DIGEST_SAMPLES, DIGEST_SAMPLE_BYTES = 256, 4096  # of a large file: 1 MB identifies it and is read quickly


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; when the block succeeds, flush that file to disk and
    rename it to `path`.

    If the block raises, `path` is unchanged and the temporary file is deleted. Raises
    IsADirectoryError, before the block, if `path` is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(path.name + ".tmp")
    try:
        with naming(temporary):
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, in UTF-8 with `\\n` line ends on every system; see
    `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def rename(source: Path, target: Path) -> None:
    """Rename with os.replace and flush the folder.

    On Windows, retry while a virus scanner holds the new file.
    """
    for wait in (0.05, 0.1, 0.2, 0.5, 1.0, None):
        try:
            os.replace(source, target)
            break
        except PermissionError:
            if wait is None or not IS_WINDOWS:
                raise
            time.sleep(wait)
    if not IS_WINDOWS:
        with naming(target.parent):
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


# ---- one process at a time in a folder: a lock of the operating system, released when the process
# dies


@contextlib.contextmanager
def locked(folder: Path, work: str, flag: str, tell: Callable[[str], None] = print) -> Iterator[None]:
    """Lock `folder`, created if missing, against other processes that call this, until the block
    ends.

    If the folder is new and the block leaves it empty, it is removed. `work` says in the error what
    the holder does, `flag` is the flag that names the folder. Raises UserError if another process
    holds the lock.
    """
    from filelock import FileLock, Timeout

    new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with naming(folder / LOCK):
                lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"{folder} is in use: {_holder(folder)} {work}; wait for it, stop it, or choose another {flag}") from None
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
            tell(f"notice: {folder} is on a drive without file locks; do not use it from a second run")
        try:
            with naming(folder / HOLDER):
                (folder / HOLDER).write_text(f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')},", encoding="utf-8")
            yield
        finally:
            for name in (HOLDER, LOCK):  # while the lock is held: the next process creates new ones
                with contextlib.suppress(OSError):
                    (folder / name).unlink()
            with contextlib.suppress(OSError):  # the work is done, and the lock ends with the process at the latest
                lock.release()
    finally:
        for path in new_folders:
            with contextlib.suppress(OSError):
                path.rmdir()  # only if it is empty


def _holder(folder: Path) -> str:
    try:
        return (folder / HOLDER).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return "another process"


# ---- `key: value` lines, and files of the prepared data


def file_size(path: Path) -> int:
    """Return the size of a prepared file in bytes. Raises UserError if it is missing."""
    if not path.is_file():
        raise UserError(f"{path} is missing; run data/download.py and data/preprocess.py first, or name the right folder")
    return path.stat().st_size


def write_metadata(path: str | Path, metadata: dict) -> None:
    """Write `key: value` lines atomically. Values are text on one line, or numbers."""
    write_text(Path(path), "".join(f"{key}: {value}\n" for key, value in metadata.items()))


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read what `write_metadata` wrote, with all values as text.

    Raises UserError if the file is missing or not of that format.
    """
    file_size(Path(path))
    try:
        pairs = [line.split(":", 1) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
        return {key.strip(): value.strip() for key, value in pairs}
    except ValueError as error:  # no colon, or not UTF-8
        raise UserError(f"{path} does not consist of `key: value` lines; run the command that wrote it again") from error


def file_digest(path: Path) -> str:
    """Return a hash of a large file: of its size and of samples spread evenly from its first byte
    to its last."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open(path, "rb") as file:
        for i in range(DIGEST_SAMPLES):
            file.seek(max(0, size - DIGEST_SAMPLE_BYTES) * i // (DIGEST_SAMPLES - 1))
            digest.update(file.read(DIGEST_SAMPLE_BYTES))
    return digest.hexdigest()
