"""Replace files atomically, and read and write `key: value` metadata files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from nano_hindi.common import IS_WINDOWS, visible
from nano_hindi.errors import UserError, naming, require

_RETRY_WAITS = (0.05, 0.1, 0.2, 0.5, *[1.0] * 59)  # seconds, a minute in total
_QUIET_WAITS = 8  # of them, before the user is told
DIGEST_SAMPLES, DIGEST_SAMPLE_BYTES = 256, 4096  # of a large file: 1 MB identifies it and is read quickly


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; when the block succeeds, flush that file to disk and
    rename it to `path`.

    If the block raises, `path` is unchanged and the temporary file is deleted. Raises
    IsADirectoryError, before the block, if `path` is a folder.
    """
    require_not_folder(path)
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


def require_not_folder(path: Path) -> None:
    """Raise IsADirectoryError if `path` is a folder."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def write_text(path: Path, text: str, errors: str = "backslashreplace") -> None:
    """Write `text` to `path` atomically, in UTF-8 with `\\n` line ends on every system; see
    `replacing`.

    `errors` is for file names that are not UTF-8: the default gives `\\udcff`, which is JSON too.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=errors, newline="\n")


def when_released(path: Path, write: Callable[[], object]) -> None:
    """Call `write`, which writes `path`. On Windows, retry for up to a minute while another program
    holds the file: a virus scanner, or one that shows it."""
    for number, wait in enumerate((*_RETRY_WAITS, None)):
        try:
            write()
            return
        except PermissionError:
            if wait is None or not IS_WINDOWS or (path.exists() and not os.access(path, os.W_OK)):  # a read-only file stays so
                raise
            if number == _QUIET_WAITS:
                print(visible(f"notice: another program has {path} open; waiting up to a minute"), flush=True)
            time.sleep(wait)


def rename(source: Path, target: Path) -> None:
    """Rename with os.replace, see `when_released`, and flush the folder."""
    when_released(target, lambda: os.replace(source, target))
    if not IS_WINDOWS:
        with naming(target.parent):
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def copy_contents(source: Path, target: Path) -> None:
    """Copy the files of a folder into another one, created if missing.

    Permissions are not copied: a read-only source, or a read-only copy of an earlier run, must not
    make the next copy impossible.
    """
    target.mkdir(parents=True, exist_ok=True)
    if source.samefile(target):
        return
    for path in (target, *target.iterdir()):  # on Windows, a read-only file cannot be replaced
        if not path.stat().st_mode & stat.S_IWUSR:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    for path in source.iterdir():
        if path.is_file():
            with replacing(target / path.name) as temporary:
                shutil.copyfile(path, temporary)


def require_place(flag: str, path: Path) -> None:
    """Raise UserError if a file cannot be written to `path`, the value of `flag`."""
    problem = "this is a folder" if path.is_dir() else "its folder does not exist" if not path.parent.is_dir() else None
    require(problem is None, f"{flag} {path}: {problem}; name a file in a folder that exists")


def expanded(name: str) -> Path:
    """Return the path of a name that may begin with ~. Path.expanduser raises for a user that does
    not exist; here that name stays as it is."""
    return Path(os.path.expanduser(name))


@contextlib.contextmanager
def utf8_path(path: Path) -> Iterator[Path]:
    """Yield a path whose bytes are UTF-8, as libraries in C++ and Rust assume: `path`, or a
    temporary link to it where its name or the system's encoding is another."""
    if os.fsencode(path) == str(path).encode("utf-8", errors="replace"):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"link{path.suffix if path.suffix.isascii() else ''}"
        link.symlink_to(path.absolute())
        yield link


def close_read(file: IO[bytes]) -> None:
    """Close a file that was only read: nothing is lost if that fails."""
    with contextlib.suppress(OSError):
        file.close()


def file_digest(path: Path) -> str:
    """Return a hash of a large file: of its size and of samples spread evenly from its first byte
    to its last."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with naming(path), open(path, "rb") as file:
        for i in range(DIGEST_SAMPLES):
            file.seek(max(0, size - DIGEST_SAMPLE_BYTES) * i // (DIGEST_SAMPLES - 1))
            digest.update(file.read(DIGEST_SAMPLE_BYTES))
    return digest.hexdigest()


# ---- `key: value` lines, and files of the prepared data


TEXT_MAKERS = "data/download.py and data/preprocess.py"


def require_made(path: Path, makers: str = TEXT_MAKERS) -> None:
    """Raise UserError, which names the commands that make it, if a prepared file is missing."""
    require(path.is_file(), f"{path} is missing; run {makers} first, or name another folder with --data_dir")


def one_line(name: str) -> str:
    """Return a file name as a value of `key: value` lines: as it is, or its `repr` if it has line
    breaks, or spaces at its ends."""
    return name if name == name.strip() and len(name.splitlines()) <= 1 else repr(name)


def write_metadata(path: str | Path, metadata: dict) -> None:
    """Write `key: value` lines atomically. Values are text, made to `one_line`, or numbers; file
    names keep their bytes."""
    write_text(Path(path), "".join(f"{key}: {one_line(str(value))}\n" for key, value in metadata.items()), errors="surrogateescape")


def read_metadata(path: str | Path, makers: str = TEXT_MAKERS) -> dict[str, str]:
    """Read what `write_metadata` wrote, with all values as text.

    Raises UserError, see `require_made`, if the file is missing; also if it is not of that format.
    """
    require_made(Path(path), makers)
    try:
        with naming(path):
            text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
        pairs = [line.split(":", 1) for line in text.splitlines() if line.strip()]
        return {key.strip(): value.strip() for key, value in pairs}
    except ValueError as error:  # no colon
        raise UserError(f"{path} does not consist of `key: value` lines; delete it, and run the command that wrote it again") from error


def has_lines(metadata: Mapping[str, str], lines: Mapping[str, object]) -> bool:
    """Return whether `metadata`, from `read_metadata`, has all of `lines`; values are compared as
    text."""
    return all(metadata.get(key) == str(value) for key, value in lines.items())
