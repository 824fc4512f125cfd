"""A disk that fails: every change of a file in turn raises an error."""

import builtins
import errno
import io
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHANGES = ("replace", "rename", "unlink", "rmdir", "mkdir", "truncate", "fsync")


class Disk:
    """Counts the changes of files in `folder`: of those CHANGES, and files that are opened to be
    written. Number `at` raises OSError, and with `dies` all later ones too."""

    def __init__(self, folder: Path, at: int, dies: bool):
        self.folder, self.at, self.dies, self.changes = folder, at, dies, 0

    @property
    def has_failed(self) -> bool:
        return self.changes > self.at

    def change(self, real: Callable, path, *args, **options):
        is_outside = isinstance(path, (str, Path)) and os.path.isabs(path) and self.folder not in Path(path).parents
        if not is_outside:
            self.changes += 1
            if self.changes - 1 == self.at or (self.dies and self.has_failed):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, *args, **options)

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        for name in CHANGES:
            real = getattr(os, name)
            patch.setattr(os, name, lambda path, *args, real=real, **options: self.change(real, path, *args, **options))
        real_open = io.open

        def open_(path, mode="r", *args, **options):
            return self.change(real_open, path, mode, *args, **options) if set(mode) & set("wax+") else real_open(path, mode, *args, **options)

        patch.setattr(io, "open", open_)
        patch.setattr(builtins, "open", open_)


def contents(folder: Path, ignored: bytes = b"") -> dict[str, bytes]:
    """Return the bytes of every file by its path, without the lines that begin with `ignored`."""
    return {
        str(path.relative_to(folder)): b"\n".join(line for line in path.read_bytes().split(b"\n") if not (ignored and line.startswith(ignored)))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def each_failing_disk(folder: Path) -> Iterator[tuple[Disk, Path]]:
    """Yield a disk for each change in turn, and a new folder in `folder` to use it with, until one
    has not failed."""
    for dies in (False, True):
        for at in itertools.count():
            disk = Disk(folder, at, dies)
            yield disk, folder / f"{'dies' if dies else 'fails'} at {at}"
            if not disk.has_failed:
                assert at > 10
                break
