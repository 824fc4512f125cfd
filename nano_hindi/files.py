"""Files that are whole or not there, folders that one program has for itself, and files of `key: value` lines."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nano_hindi.common import IS_WINDOWS
from nano_hindi.errors import UserError

LOCK = ".lock"
HOLDER = ".lock.txt"  # who holds it: Windows lets nobody read a locked file
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # some network drives
DIGEST_SAMPLES, DIGEST_SAMPLE_BYTES = 256, 4096  # of a large file: a megabyte tells it from others and is read in no time


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


# ---- one program at a time in a folder: a lock of the operating system, which a process that dies gives up by itself


@contextlib.contextmanager
def locked(folder: Path, work: str, flag: str, tell: Callable[[str], None] = print) -> Iterator[None]:
    """Keep other processes that ask for it out of `folder`, made where it is not there, until the block ends. A block that leaves nothing in a new
    folder leaves no folder. `work` says in the error what the holder does, `flag` names the folder. Raises UserError where another process is in it.
    """
    from filelock import FileLock, Timeout

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
            (folder / HOLDER).write_text(f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')},", encoding="utf-8")
            yield
        finally:
            for name in (HOLDER, LOCK):  # while it is held: whoever comes next makes a new one
                with contextlib.suppress(OSError):
                    (folder / name).unlink()
            lock.release()
    finally:
        for path in new_folders:
            with contextlib.suppress(OSError):
                path.rmdir()  # only where it is empty


def _holder(folder: Path) -> str:
    try:
        return (folder / HOLDER).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return "another process"


# ---- `key: value` lines, and files of the prepared data


def file_size(path: Path) -> int:
    """Bytes of a file of the prepared data. Raises UserError where it is missing."""
    if not path.is_file():
        raise UserError(f"{path} is missing; run data/download.py and data/preprocess.py first, or name the right folder")
    return path.stat().st_size


def write_metadata(path: str | Path, metadata: dict) -> None:
    """Write `key: value` lines, under a temporary name first. Values are text on one line, or numbers."""
    write_text(Path(path), "".join(f"{key}: {value}\n" for key, value in metadata.items()))


def read_metadata(path: str | Path) -> dict[str, str]:
    """What `write_metadata` wrote, as text. Raises UserError where the file is missing or no such file."""
    file_size(Path(path))
    try:
        pairs = [line.split(":", 1) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
        return {key.strip(): value.strip() for key, value in pairs}
    except ValueError as error:  # no colon, or no UTF-8
        raise UserError(f"{path} is not made of `key: value` lines; run the command that wrote it again") from error


def file_digest(path: Path) -> str:
    """A fingerprint of a large file: its length, and samples spread evenly from its first byte to its last."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open(path, "rb") as file:
        for i in range(DIGEST_SAMPLES):
            file.seek(max(0, size - DIGEST_SAMPLE_BYTES) * i // (DIGEST_SAMPLES - 1))
            digest.update(file.read(DIGEST_SAMPLE_BYTES))
    return digest.hexdigest()
