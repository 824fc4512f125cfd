"""Documents round-trip to the byte, whatever they contain; files from other sources are read, or
refused in one line."""

import contextlib
import gzip
import json
import random
import tracemalloc
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import standin
from conftest import run_script
from nano_hindi.corpus import documents, source_files
from nano_hindi.corpus.documents import batches, chunks, count_words, joined, read_documents, read_source, write_document
from nano_hindi.errors import UserError
from standin import write_corpus

TEXTS = [
    *("", " ", "\n", "\n\n\n", "a", "a\n", "a\n\n", "\na", "a\r\nb\r\n", "\r", "a\r", "\ttab\t\n  spaces  \n", "\ufeffBOM", "\x00\x0b\x0c\x1c\x85\u2028\u2029"),
    *("राम ने कहा।\n\nफिर वह चला गया।", "क्‍या ख़ुशी ज़रूरत बड़ा", "👍🏽 👩‍🌾 🇮🇳", "</s><s> <unk>", "१२३ 123"),
    *("<|endoftext|>", "<|endoftext|>\n", "\n<|endoftext|>", "a\n<|endoftext|>\nb", "<|endoftext|>\n<|endoftext|>", "<|endoftext|>\r\nb", "<|endoftext|>\r"),
    *("\\<|endoftext|>", "\\\\\\<|endoftext|>\n\\<|endoftext|>", "\\<|endoftext|>\r\n", " <|endoftext|>", "<|endoftext|> ", "a<|endoftext|>", "\\", "a\\"),
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_document_round_trip(tmp_path, text):
    assert list(read_documents(write_corpus(tmp_path / "c.txt", ["before", text, "after"]))) == ["before", text, "after"]
    assert list(read_documents(write_corpus(tmp_path / "c.txt", [text]))) == [text]


def test_documents_of_random_fragments_round_trip(tmp_path):
    rng = random.Random(0)
    pieces = ["<|endoftext|>", "\\", "\n", "\n", "\r\n", "\r", "क", " "]
    texts = ["".join(rng.choices(pieces, k=rng.randint(0, 12))) for _ in range(5000)]
    assert list(read_documents(write_corpus(tmp_path / "c.txt", texts))) == texts


def test_corpus_file_has_the_documented_format(tmp_path):
    path = write_corpus(tmp_path / "c.txt", ["राम", "x\n<|endoftext|>\n\\<|endoftext|>\n <|endoftext|>", "end\n"])
    expected = "राम\n<|endoftext|>\nx\n\\<|endoftext|>\n\\\\<|endoftext|>\n <|endoftext|>\n<|endoftext|>\nend\n\n<|endoftext|>\n"
    assert path.read_bytes() == expected.encode()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"a\n\nb\n", ["a\n\nb\n"]),
        (b"a\n<|endoftext|>\nb", ["a", "b"]),
        (b"a\n<|endoftext|>\nb\n", ["a", "b\n"]),
        (b"a\n<|endoftext|>", ["a"]),
        (b"a\n<|endoftext|>\n\n \n", ["a"]),
        (b"", []),
        (b"\n", []),
        (b"a\n<|endoftext|>\n\\<|endoftext|>", ["a", "<|endoftext|>"]),
    ],
)
def test_text_after_the_last_marker_is_a_document_unless_it_is_blank(tmp_path, raw, expected):
    (tmp_path / "a.txt").write_bytes(raw)
    assert list(read_documents(tmp_path / "a.txt")) == expected


def test_corpus_saved_by_a_windows_editor_has_the_same_documents(tmp_path):
    texts = ["एक", "दो\n\\<|endoftext|>\n<|endoftext|>\nतीन", "चार"]
    raw = write_corpus(tmp_path / "c.txt", texts).read_bytes()
    (tmp_path / "w.txt").write_bytes("\ufeff".encode() + raw.replace(b"\n", b"\r\n"))
    assert [text.replace("\r\n", "\n") for text in read_source(tmp_path / "w.txt")] == texts


@contextlib.contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Trace the memory of Python's objects in the block. Returns a function for its peak, in
    bytes."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_reading_holds_one_document_in_memory(tmp_path):
    write_corpus(tmp_path / "c.txt", 12 * standin.documents(2000))
    assert (tmp_path / "c.txt").stat().st_size > 5_000_000
    with traced() as peak:
        assert sum(1 for _ in read_documents(tmp_path / "c.txt")) == 24_000
        assert peak() < 500_000


def test_jsonl_and_parquet_are_read_in_order(tmp_path):
    texts = [text for text in TEXTS if text.strip()] + standin.documents(2500)
    with open(tmp_path / "a.jsonl", "w", encoding="utf-8", newline="\n") as file:
        for i, text in enumerate(texts):
            file.write(json.dumps({"id": i, "text": text}, ensure_ascii=i % 2 == 0) + "\n\n")
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), tmp_path / "a.PARQUET", row_group_size=700)
    assert list(read_source(tmp_path / "a.jsonl")) == texts
    assert list(read_source(tmp_path / "a.PARQUET")) == texts


def test_parquet_is_read_by_row_group(tmp_path):
    texts = ["x" * 10_000 + str(i) for i in range(3000)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=100, compression="none", use_dictionary=False)
    with traced() as peak:
        before = pa.total_allocated_bytes()
        most = max(pa.total_allocated_bytes() - before for _ in read_source(tmp_path / "a.parquet"))
        assert most < 15_000_000  # of 30 MB
        assert peak() < 15_000_000


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_parquet_of_few_bytes_and_long_rows_is_read_row_by_row(tmp_path, use_dictionary):
    text = "क" * 1_000_000  # 3 MB
    options = {"compression": "zstd", "use_dictionary": use_dictionary, "write_batch_size": 1}  # so that each row has a page of its own
    pq.write_table(pa.table({"text": [text] * 40}), tmp_path / "a.parquet", **options)
    assert (tmp_path / "a.parquet").stat().st_size < 200_000
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for read in read_source(tmp_path / "a.parquet") if read == text]
    assert len(held) == 40
    assert max(held) < 20_000_000  # of 120 MB


def test_parquet_error_names_the_row(tmp_path):
    path = tmp_path / "a.parquet"
    binary = pa.array([b"a", b"b", None, b"\xff"])
    pq.write_table(pa.table({"text": binary.view(pa.string())}), path, row_group_size=2)
    texts = read_source(path)
    assert [next(texts), next(texts)] == ["a", "b"]
    with pytest.raises(UserError, match=r"a\.parquet, row 4: not UTF-8"):
        next(texts)
    assert [list(chunk.read()) for chunk in chunks(path, 1)[:2]] == [["a"], ["b"]]
    with pytest.raises(UserError, match=r"a\.parquet, row 4: not UTF-8"):
        list(chunks(path, 1)[3].read())
    pq.write_table(pa.table({"text": binary}), path)
    with pytest.raises(UserError, match=r"a\.parquet, row 1: the column 'text' holds bytes, not text; convert it$"):
        list(read_source(path))


def test_byte_order_mark_is_removed_from_a_text_file(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffराम".encode())
    (tmp_path / "a.jsonl").write_bytes('\ufeff{"text": "राम"}'.encode())
    assert list(read_source(tmp_path / "a.txt")) == list(read_source(tmp_path / "a.jsonl")) == ["राम"]


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.pdf", b"x", r"a\.pdf: documents are read from \.txt, \.jsonl, \.parquet"),
        ("a", b"x", "documents are read from"),
        ("a.txt", b"ok\n<|endoftext|>\nab\xff\n<|endoftext|>\n", r"a\.txt is not UTF-8 \(in the document that ends at line 4"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n', r"line 2: expected a JSON object with a text in the field 'text'; fix or delete the line$"),
        ("a.jsonl", b'{"content": "a", "id": 1}\n', r"a\.jsonl, line 1 has no field 'text', only content, id; rename the field with the text$"),
        ("a.jsonl", b"{}", "line 1 has no field 'text', only an empty object"),
        ("a.jsonl", b'\n["text"]\n', "line 2: expected"),
        ("a.jsonl", b'{"text": 5}\n', "line 1: expected"),
        ("a.jsonl", b"[" * 200_000, "line 1: expected"),
        ("a.jsonl", b'{"text": "a\xff"}\n', "line 1: not valid UTF-8"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1: not valid UTF-8"),
        ("a.parquet", b"PAR1 no", r"a\.parquet is not a readable parquet file"),
        ("a.parquet", b"", "is not a readable parquet file"),
    ],
)
def test_bad_file_is_a_user_error_with_its_name_and_line(tmp_path, name, raw, message):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(UserError, match=message):
        list(read_source(tmp_path / name))


HINDI = "नदी के पास एक गाँव था, जहाँ राम — “बड़ा” भाई — रहता था।\nउसने कहा: Hello, world!\n" * 40


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-16", "utf-32"])
@pytest.mark.parametrize("text", ["नदी", "नदी\n", "river", "एक नदी\r\n", HINDI])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz"])
def test_text_in_utf_16_or_utf_32_is_refused_by_its_name(tmp_path, name, text, encoding):
    raw = text.encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    expected = {"utf-16": "utf-16-le", "utf-32-le": "utf-32", "utf-32-be": "utf-32"}.get(encoding, encoding)
    with pytest.raises(UserError, match=rf"{name} is not UTF-8: it looks like {expected}; convert it first"):
        list(read_source(tmp_path / name))


@pytest.mark.parametrize(
    "text",
    [
        *("a\x00", "a\x00b\x00", "\x00" * 50, "\t" * 50 + "x", "\x00नदी\x00", "राम\x00 और श्याम", HINDI + "\x00\x00", "x\x00" + HINDI, "नदी\t" * 50),
        *("1\t2\t3\t4\n" * 50, "a\tb\n\tc\n" * 50, "\n\n\n\t\n\t\nx", "a\x00b\x00c\x00 and then only letters", " ".join("क" * 50)),
    ],
)
def test_utf_8_with_nuls_and_tabs_is_read_as_it_is(tmp_path, text):
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert list(read_source(tmp_path / "a.txt")) == [text]


@pytest.mark.parametrize("raw", ["naïve café".encode("cp1252"), bytes(range(0xA1, 0xEB)), b"\xa4\xcf \xda\xb3\xcc"])
def test_bytes_of_other_encodings_are_not_utf_8(tmp_path, raw):
    (tmp_path / "a.txt").write_bytes(raw)
    with pytest.raises(UserError, match=r"a\.txt is not UTF-8 \(in the document that ends at line 1"):
        list(read_source(tmp_path / "a.txt"))


def test_line_whose_text_is_null_is_skipped(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": null}\n{"text": "b"}\n')
    assert list(read_source(tmp_path / "a.jsonl")) == ["a", "b"]


def test_error_names_a_few_fields_of_many(tmp_path):
    fields = {"x" * 1000: 1} | {f"f{i}": i for i in range(5000)}
    (tmp_path / "a.jsonl").write_text(json.dumps(fields), encoding="utf-8")
    pq.write_table(pa.table({name: [1] for name in list(fields)[:300]}), tmp_path / "a.parquet")
    named = f"only {'x' * 37}\\.\\.\\., f0, f1, f2, f3, f4, f5, f6 and"
    with pytest.raises(UserError, match=f"line 1 has no field 'text', {named} 4,993 more; rename the field with the text$"):
        list(read_source(tmp_path / "a.jsonl"))
    with pytest.raises(UserError, match=f"parquet has no column 'text', {named} 292 more; rename the column with the text$"):
        list(read_source(tmp_path / "a.parquet"))


@pytest.mark.parametrize("name", source_files.CHAT_COLUMNS)
def test_chat_data_is_recognised(name, tmp_path):
    messages = [{"role": "user", "content": "नमस्ते"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": 1, name: messages}), encoding="utf-8")
    pq.write_table(pa.table({name: [messages]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.jsonl, line 1 holds chat messages; only data/chat\.py reads them, other commands read the field text$"):
        list(read_source(tmp_path / "a.jsonl"))
    with pytest.raises(UserError, match=r"a\.parquet holds chat messages; only data/chat\.py reads them, other commands read the column text$"):
        list(read_source(tmp_path / "a.parquet"))
    (tmp_path / "b.jsonl").write_text(json.dumps({name: messages, "text": "a"}), encoding="utf-8")
    assert list(read_source(tmp_path / "b.jsonl")) == ["a"]


def test_missing_file_is_reported_before_anything_is_read(tmp_path):
    for name in ("missing.txt", "missing.jsonl", "missing.parquet", "sample", "."):
        with pytest.raises(UserError, match="there is no file"):
            read_source(tmp_path / name)
    with pytest.raises(UserError, match="there is no file"):
        list(read_documents(tmp_path / "missing.txt"))


def test_text_that_utf8_cannot_encode_is_a_user_error(tmp_path):
    with open(tmp_path / "c.txt", "wb") as file, pytest.raises(UserError, match="not valid Unicode"):
        write_document(file, "a\ud800b")
    assert (tmp_path / "c.txt").read_bytes() == b""


def test_batches_keep_the_order_and_stay_small():
    texts = ["x" * (i % 50) for i in range(1000)]
    parts = list(batches(texts, characters=100))
    assert [text for part in parts for text in part] == texts
    assert all(100 <= sum(len(text) + 1 for text in part) < 151 for part in parts[:-1])
    assert list(batches([])) == []


def test_importing_the_corpus_package_loads_no_heavy_library():
    code = "import sys, nano_hindi.corpus.documents; assert not {'pyarrow', 'torch', 'numpy', 'transformers'} & set(sys.modules)"
    assert run_script("-c", code).returncode == 0


@pytest.mark.parametrize("size", [1, 13, 14, 15, 16, 17, 40, 1000])
def test_chunks_of_a_text_file_have_each_document_once(tmp_path, size):
    rng, path = random.Random(size), tmp_path / "c.txt"
    pieces = ["<|endoftext|>", "\\", "\n", "\n", "\r\n", "\r", "क", " ", "\ufeff"]
    for i in range(60):
        if i % 2:
            write_corpus(path, ["".join(rng.choices(pieces, k=rng.randint(0, 9))) for _ in range(rng.randint(0, 20))])
        else:
            path.write_bytes("".join(rng.choices(pieces, k=rng.randint(0, 60))).encode())
        assert [text for chunk in chunks(path, size) for text in chunk.read()] == list(read_source(path))


@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_chunks_of_jsonl_and_parquet_have_each_document_once(tmp_path, size):
    texts = [*TEXTS, *standin.documents(30)]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "a.jsonl").write_bytes("\n".join([*lines[:20], "", *lines[20:]]).encode())
    pq.write_table(pa.table({"text": [*texts, None, "end"]}), tmp_path / "a.parquet", row_group_size=15)
    assert [text for chunk in chunks(tmp_path / "a.jsonl", size) for text in chunk.read()] == texts
    assert [text for chunk in chunks(tmp_path / "a.parquet", size) for text in chunk.read()] == [*texts, "end"]


def test_small_files_are_joined_up_to_the_size_of_a_chunk(tmp_path):
    lengths, paths = [10, 10, 10, 1, 70, 30, 0, 5, 25], []
    for i, length in enumerate(lengths):
        paths.append(tmp_path / f"{i}.txt")
        paths[-1].write_text(chr(ord("a") + i) * length)
    plan = joined([chunks(path, 30) for path in paths], 30)
    assert ["".join(chunk.read()) for chunk in plan] == ["a" * 10 + "b" * 10 + "c" * 10, "d", "e" * 70, "", "", "f" * 30, "h" * 5 + "i" * 25]
    assert [chunk.size for chunk in plan] == [30, 1, 30, 30, 10, 30, 30]
    assert plan[1:6] == [*chunks(paths[3], 30), *chunks(paths[4], 30), *chunks(paths[5], 30)]  # alone, with the bounds that they had before


def test_error_in_a_later_chunk_is_reported_with_its_line(tmp_path):
    raw = b"".join(json.dumps({"text": "x" * 50}).encode() + b"\n" for _ in range(100))
    (tmp_path / "a.jsonl").write_bytes(raw + b"{\n")
    with pytest.raises(UserError, match="line 101: expected"):
        [list(chunk.read()) for chunk in chunks(tmp_path / "a.jsonl", 500)]
    (tmp_path / "a.txt").write_bytes(b"one\n<|endoftext|>\n" * 100 + b"\xff\n<|endoftext|>\n")
    with pytest.raises(UserError, match="line 202"):
        [list(chunk.read()) for chunk in chunks(tmp_path / "a.txt", 500)]


def test_huge_line_is_read_once_and_not_by_every_chunk(tmp_path):
    for name, raw in (("a.txt", b"x" * 3_000_000), ("a.jsonl", json.dumps({"text": "x" * 3_000_000}).encode())):
        (tmp_path / name).write_bytes(raw + b"\n")
        first, *others = chunks(tmp_path / name, 100_000)
        assert [len(text) for text in first.read()] in ([3_000_001], [3_000_000])
        with traced() as peak:
            assert not any(text for chunk in others for text in chunk.read())
            assert peak() < 500_000


def test_words_of_a_long_text_are_those_that_split_finds():
    text = "".join(random.Random(0).choices(["क", "a", " ", "\n", "\x1c", "\x85", "\u00a0", "\u2028", "\u3000", "\u200b", "\ufeff"], k=1_100_000))
    assert count_words(text) == len(text.split()) > 100_000


# ---- compressed files


def zstd(raw):
    return pa.Codec("zstd").compress(raw, asbytes=True)


COMPRESSORS = {".gz": gzip.compress, ".zst": zstd, ".GZ": lambda raw: gzip.compress(raw[:77]) + gzip.compress(raw[77:])}


def compressed(path, end):
    """Write a compressed copy of a file beside it."""
    copy = path.with_name(path.name + end)
    copy.write_bytes(COMPRESSORS[end](path.read_bytes()))
    return copy


@pytest.fixture
def plain(tmp_path):
    """Return a .txt and a .jsonl of the same hard texts."""
    texts = [text for text in TEXTS if text.strip()] + standin.documents(200)
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "a.jsonl").write_bytes("\n".join([*lines[:50], "", '{"text": null}', *lines[50:]]).encode())
    return write_corpus(tmp_path / "a.txt", texts), tmp_path / "a.jsonl"


@pytest.mark.parametrize("end", COMPRESSORS)
@pytest.mark.parametrize("size", [1000, 10_000, 10_000_000])
def test_chunks_of_a_compressed_file_are_those_of_the_plain_one(plain, size, end):
    for path in plain:
        copy = compressed(path, end)
        assert list(read_source(copy)) == list(read_source(path))
        expected = [list(chunk.read()) for chunk in chunks(path, size)]
        of_copy = chunks(copy, size)
        assert [list(chunk.read()) for chunk in of_copy] == expected
        assert [list(chunk.read()) for chunk in of_copy[::-1]] == expected[::-1]
        assert [list(chunk.read()) for chunk in of_copy[1::3]] == expected[1::3]
        assert [next(chunk.read(), None) for chunk in of_copy] == [next(iter(texts), None) for texts in expected]


def test_chunks_of_a_compressed_file_are_read_in_turn(plain):
    expected = [list(chunk.read()) for chunk in chunks(plain[0], 2000)]
    plan = chunks(compressed(plain[0], ".gz"), 2000)
    assert list(plan[0].read()) == expected[0]
    second, last = plan[1].read(), plan[-1].read()  # both could continue where the first ended
    assert [next(second), *last, *second] == [expected[1][0], *expected[-1], *expected[1][1:]]
    assert len(expected[1]) > 1


def test_chunks_of_a_compressed_file_are_decompressed_once(plain, monkeypatch):
    copy, opens = compressed(plain[0], ".gz"), []
    plan, opened = chunks(copy, 2000), source_files.opened
    monkeypatch.setattr(documents, "opened", lambda path: opens.append(path) or opened(path))
    monkeypatch.setattr(documents, "_forward", None)
    assert len(plan) > 20
    assert len([text for chunk in plan for text in chunk.read()]) > 100
    assert [next(chunk.read(), None) for chunk in plan[::3]]  # from the beginning again
    assert len(opens) == 2


def test_compressed_file_is_read_anew_if_it_is_replaced_or_was_passed(tmp_path):
    for i, texts in enumerate((["one", "two", "three"], ["six", "ten", "seven"])):
        plan = chunks(compressed(write_corpus(tmp_path / "a.txt", texts), ".gz"), len("one\n<|endoftext|>\n"))
        assert list(plan[i].read()) == [texts[i]]
        assert list(plan[i].read()) == [texts[i]]


@pytest.mark.parametrize("end", [".gz", ".zst"])
def test_reading_a_compressed_file_needs_little_memory(tmp_path, end):
    write_corpus(tmp_path / "a.txt", ["राम " * 500] * 10_000)  # 65 MB
    copy = compressed(tmp_path / "a.txt", end)
    plan, before = chunks(copy), pa.total_allocated_bytes()
    most = 0
    with traced() as peak:
        for chunk in plan:
            for _ in chunk.read():
                most = max(most, pa.total_allocated_bytes() - before)
        assert peak() < 1_000_000
    assert most < 5_000_000


@pytest.mark.parametrize("end", [".gz", ".zst"])
def test_damaged_compressed_file_is_a_user_error(tmp_path, end):
    draw = random.Random(0)
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(json.dumps({"text": str(draw.random())}).encode() for _ in range(20_000)))
    path = compressed(tmp_path / "a.jsonl", end)
    good = path.read_bytes()
    middle = len(good) // 2
    flipped = good[:middle] + bytes([good[middle] ^ 0x55]) + good[middle + 1 :]  # gzip has a checksum, zstd may have one
    for raw in (good[:-9], good[:middle], good + b"garbage", b"not compressed", *[flipped] * (end == ".gz")):
        path.write_bytes(raw)
        for read in (read_source, chunks)[raw == flipped :]:  # it may not be JSON either
            with pytest.raises(UserError, match=rf"a\.jsonl{end} is not a complete (gzip|zstd) file \([^\n]+\); download or copy it again$"):
                list(read(path))


def test_errors_in_a_compressed_file_name_the_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x"}\n' * 100 + b"{\n")
    (tmp_path / "a.txt").write_bytes(b"one\n<|endoftext|>\n" * 100 + b"\xff\n<|endoftext|>\n")
    for name, message in (("a.jsonl", r"a\.jsonl\.gz, line 101: expected"), ("a.txt", r"a\.txt\.gz is not UTF-8 .*line 202")):
        copy = compressed(tmp_path / name, ".gz")
        with pytest.raises(UserError, match=message):
            list(read_source(copy))
        for _ in range(2):  # the error again, not the end of the file
            with pytest.raises(UserError, match=message):
                [list(chunk.read()) for chunk in chunks(copy, 500)]


@pytest.mark.parametrize("name", ["a.parquet.gz", "a.gz", ".gz", "a.txt.bz2", "a.txt.gz.gz", "a.gz.txt.zip"])
def test_other_compressed_files_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"documents are read from \.txt, .*\.txt\.gz, \.jsonl\.gz, \.txt\.zst, \.jsonl\.zst files"):
        read_source(tmp_path / name)
