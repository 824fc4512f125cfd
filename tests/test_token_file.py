"""A token file that is damaged, or changes, is noticed by every reader."""

import errno
import io
import os
import random

import numpy as np
import pytest
import torch

from nano_hindi.dataloader import SequenceLoader, val_batches
from nano_hindi.errors import UserError
from nano_hindi.token_file import DIGEST_CHUNK_BYTES, SAMPLED_CHUNKS, DataError, TokenFile
from test_dataloader import VOCAB, T, loader, raw, write_tokens


@pytest.fixture
def token_file(tmp_path):
    return write_tokens(tmp_path / "train.bin", np.arange(37 * T + 6) * 7 % VOCAB)


@pytest.mark.parametrize("damaged", [1, 20])
def test_sample_finds_damage_as_often_as_documented(tmp_path, monkeypatch, damaged):
    """1 - (1 - f)**62 for a fraction f of the chunks; the first and the last chunk always."""
    monkeypatch.setattr("nano_hindi.token_file.DIGEST_CHUNK_BYTES", 8)
    file = TokenFile(write_tokens(tmp_path / "t.bin", range(800)), VOCAB)
    digests = list(file.chunk_digests())
    assert len(digests) == 400

    def is_found(at: list[int], every: bool = False) -> bool:
        wrong = ["damaged" if i in at else digest for i, digest in enumerate(digests)]
        try:
            file.require_digests(wrong, every)
        except UserError:
            return True
        return False

    file.require_digests(digests, every=True)
    file.require_digests(digests, every=False)
    assert all(is_found([i]) for i in (0, 399))
    assert all(is_found([i], every=True) for i in range(400))
    found = sum(is_found(random.sample(range(1, 399), damaged)) for _ in range(600)) / 600
    assert found == pytest.approx(1 - (1 - damaged / 398) ** 62, abs=0.12)
    assert 0 < sum(is_found([200]) for _ in range(100)) < 100, "other chunks at each start"


def test_small_file_is_checked_whole_at_every_start(tmp_path, monkeypatch):
    monkeypatch.setattr("nano_hindi.token_file.DIGEST_CHUNK_BYTES", 8)
    file = TokenFile(write_tokens(tmp_path / "t.bin", range(128)), VOCAB)
    digests = list(file.chunk_digests())
    assert len(digests) == SAMPLED_CHUNKS
    with pytest.raises(UserError, match="damaged"):
        file.require_digests([*digests, digests[0]], every=True)
    for i in range(64):
        with pytest.raises(UserError, match=f"from byte {8 * i} on"):
            file.require_digests([*digests[:i], "damaged", *digests[i + 1 :]], every=False)


@pytest.mark.parametrize("size", [0, 400, 37 * T * 4])
def test_file_that_shrinks_is_an_error_for_every_reader(token_file, tmp_path, size):
    """A memory map would end the process with SIGBUS."""
    path = tmp_path / "t.bin"
    path.write_bytes(token_file.read_bytes())
    file = TokenFile(path, VOCAB)
    sequences, validation = SequenceLoader(file, T, 1), val_batches(file, T, 4, 10**6)
    sequences.batch(0, 37)
    next(validation)
    os.truncate(path, size)
    for read in (lambda: sequences.batch(0, 37), lambda: list(validation), lambda: list(file.chunk_digests())):
        with pytest.raises(DataError, match=r"t\.bin was truncated or changed while it was in use; restore it"):
            read()


def test_file_that_changes_in_place_is_an_error_for_every_reader(token_file, tmp_path):
    path = tmp_path / "t.bin"
    path.write_bytes(token_file.read_bytes())
    file = TokenFile(path, VOCAB)
    file.require_digests(list(file.chunk_digests()), every=True)
    sequences, validation = SequenceLoader(file, T, 1), val_batches(file, T, 4, 10**6)
    next(validation)
    path.write_bytes(b"\0" * file.size)
    os.utime(path, (1, 1))  # a clock may be too coarse for two writes
    for read in (lambda: sequences.batch(0, 1), lambda: next(validation)):
        with pytest.raises(DataError, match=r"t\.bin was truncated or changed while it was in use; restore it"):
            read()


def test_file_with_a_new_time_is_hashed_once_and_one_with_a_new_size_refused(token_file, tmp_path, monkeypatch):
    path = tmp_path / "t.bin"
    path.write_bytes(token_file.read_bytes())
    file, hashed = TokenFile(path, VOCAB), []
    file.require_digests(list(file.chunk_digests()), every=True)
    monkeypatch.setattr(file, "chunk_digest", lambda i, digest=file.chunk_digest: (hashed.append(i), digest(i))[1])
    os.utime(path, (1, 1))
    for start in (0, 1):
        SequenceLoader(file, T, 1).batch(start, 1)
    assert hashed == [0]
    os.truncate(path, file.size + 4)
    with pytest.raises(DataError, match="changed"):
        SequenceLoader(file, T, 1).batch(2, 1)


def test_digests_recorded_by_older_versions_stay_valid(token_file):
    assert (DIGEST_CHUNK_BYTES, TokenFile(token_file, VOCAB).chunk_digest(0)) == (2**20, "d4ddef1f50776167")


def test_file_that_is_replaced_is_read_to_the_end(token_file, tmp_path):
    path = tmp_path / "t.bin"
    path.write_bytes(token_file.read_bytes())
    sequences, expected = loader(path), loader(token_file).batch(5, 90)
    if os.name != "nt":  # where an open file cannot be replaced
        path.unlink()
        write_tokens(path, range(50))
    assert torch.equal(sequences.batch(5, 90)[0], expected[0])


def test_unreadable_disk_is_an_error_that_names_the_file(token_file):
    file = TokenFile(token_file, VOCAB)

    class BadDisk(io.BytesIO):
        def readinto(self, buffer):
            raise OSError(errno.EIO, "Input/output error")

    file._file = BadDisk()
    with pytest.raises(DataError, match=r"train\.bin cannot be read \(Input/output error\); restore it"):
        file[:10]


def test_reads_that_return_less_are_continued(token_file):
    """As on some network drives."""
    file, expected = TokenFile(token_file, VOCAB), raw(token_file)

    class Slow(io.FileIO):
        def readinto(self, buffer):
            return super().readinto(memoryview(buffer)[:3])

    file._file = Slow(token_file)
    assert file[5:50].tolist() == expected[5:50].tolist()
    file._file.close()
