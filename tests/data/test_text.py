import gzip
import zipfile

import pytest

from echojax.data import text
from echojax.data.text import TextFile, read_blocks
from echojax.errors import UserError

LINES = b"".join(b"line %d \xc3\xa9\n" % i for i in range(500))


def content(file, block_bytes=64):
    return b"".join(block.data for block in read_blocks(file, block_bytes))


@pytest.mark.parametrize("name", ["plain.txt", "packed.txt.gz", "packed_without_suffix"])
def test_blocks_join_to_the_text(name, write):
    data = gzip.compress(LINES) if name == "packed_without_suffix" else LINES
    file = TextFile(write(name, data))
    assert content(file) == LINES
    assert all(block.data.endswith(b"\n") for block in read_blocks(file, 64))


def test_a_member_of_a_zip_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/ratings.dat", LINES)
    file = TextFile(tmp_path / "a.zip", "folder/ratings.dat")
    assert content(file) == LINES
    assert file.name == "ratings.dat"
    with pytest.raises(UserError, match="no such member"):
        content(TextFile(tmp_path / "a.zip", "other"))


def test_line_numbers_count_over_blocks(write):
    blocks = list(read_blocks(TextFile(write("x", LINES)), 64))
    assert len(blocks) > 10
    last = blocks[-1]
    assert last.first_line + last.data.count(b"\n") - 1 == 500


def test_windows_newlines_byte_order_mark_and_missing_last_newline(write):
    assert content(TextFile(write("x", b"\xef\xbb\xbfa\tb\r\nc\td"))) == b"a\tb\nc\td\n"


def test_byte_order_marks_of_joined_files_are_dropped(write):
    mark = b"\xef\xbb\xbf"
    data = mark + mark + b"a\nb\n" + mark + b"c\nd" + mark + b"e\n"
    for size in (4, 7, 64):
        assert content(TextFile(write("x", data)), size) == b"a\nb\nc\nd" + mark + b"e\n"


KINDS = {
    "a web page": [b"<!doctype html>\n", b"\n \n<HTML lang=en>\n", b"\xef\xbb\xbf<html>\n"],
    "XML": [b"<?xml version='1.0'?>\n<r/>\n"],
    "a JSON array": [b'[\n {"user": 1},\n {"user": 2}\n]\n', b' [ {"user": 1}]\n'],
    "a pickle": [b"\x80\x02}q\0.", b"\x80\x05\x95\0"],
    "an R object": [b"X\n\0\0\0\3"],
    "an R workspace": [b"RDX3\nX\n\0\0"],
    "an image": [b"\x89PNG\r\n\x1a\n" + bytes(30)],
    "looks like UTF-16 text": ["u,i\n1,2\n".encode("utf-16-le"), "用,i\n1,2\n".encode("utf-16-be")],
    "holds a NUL byte": [b"ratings.csv" + bytes(245) + b"\n"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_table_is_named(kind, write):
    for data in KINDS[kind]:
        with pytest.raises(UserError, match=kind):
            content(TextFile(write("x", data)))


def test_windows_newline_cut_between_chunks(write):
    data = b"12345\r\n" * 100
    for size in (5, 6, 7):
        assert content(TextFile(write("x", data)), size) == b"12345\n" * 100


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (gzip.compress(LINES, mtime=0)[:-9], "cut short"),
        (gzip.compress(LINES, mtime=0)[:40] + b"\xff" * 200, "broken archive"),
        (b"fine\n\xff\xfea\0", "line 2: holds a NUL"),
        (b"fine\nfine\ncaf\xe9\n", "line 3: byte 0xe9 is not UTF-8"),
    ],
    ids=["empty", "empty archive", "cut archive", "broken archive", "NUL", "latin-1"],
)
def test_unreadable_content(data, message, write):
    with pytest.raises(UserError, match=message) as raised:
        content(TextFile(write("x", data)))
    assert "\n" not in str(raised.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        content(TextFile(tmp_path / "absent"))
    with pytest.raises(UserError, match="is a folder"):
        content(TextFile(tmp_path))


def test_broken_zip(write):
    with pytest.raises(UserError, match="broken archive"):
        content(TextFile(write("x.zip", b"PK no zip at all"), "member"))


def test_decompression_bomb_is_refused_early(write, monkeypatch):
    monkeypatch.setattr(text, "ALWAYS_ALLOWED_BYTES", 1 << 16)
    path = write("bomb.gz", b"1\t1\t1\n" * 2_000_000)
    with pytest.raises(UserError, match="expands to more than"):
        content(TextFile(path), 1 << 16)


def test_endless_line_is_refused(write, monkeypatch):
    monkeypatch.setattr(text, "MAX_LINE_BYTES", 1 << 12)
    with pytest.raises(UserError, match="a line is longer"):
        content(TextFile(write("x", b"a" * (1 << 14))), 1 << 10)
