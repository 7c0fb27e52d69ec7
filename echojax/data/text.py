"""Text files as blocks of whole lines: plain, gzip, or a member of a zip archive."""

import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from echojax.errors import UserError
from echojax.files import is_special

BLOCK_BYTES = 8 << 20
MAX_LINE_BYTES = 16 << 20
# Interactions as text compress 3 to 20 times; a file that expands much further is a bomb.
MAX_EXPANSION = 100
ALWAYS_ALLOWED_BYTES = 256 << 20

_Stream = io.BufferedReader | gzip.GzipFile | zipfile.ZipExtFile

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UNPACK, _EXPORT = "unpack it", "export it as CSV or Parquet"
_INSIDE = "unpack it if it is inside another, or export it as text"
_UTF8 = "convert it to UTF-8, as with iconv -f UTF-16 -t UTF-8"
_INDENT = rb"(\xef\xbb\xbf)?\s*"  # of text, after a byte order mark
# What files begin with that are no lists of events (regular expressions), what they are, and what
# to do about it.
_KINDS = (
    (rb"\x1f\x8b", "gzip inside gzip", "unpack it once"),
    (rb"\x1f\x9d", "a compress (.Z) file", _UNPACK),
    (rb"(?s)PK\x03\x04.{26}(\[Content_Types\]|_rels/|docProps/|xl/)", "an Excel workbook", _EXPORT),
    (rb"PK\x03\x04", "a zip archive", _UNPACK),
    (rb"PK\x05\x06", "an empty zip archive", _UNPACK),
    (rb"BZh", "a bzip2 file", _UNPACK),
    (rb"\xfd7zXZ\0", "an xz file", _UNPACK),
    (rb"\x5d\0\0", "an lzma file", _UNPACK),
    (rb"\x28\xb5\x2f\xfd", "a Zstandard file", _UNPACK),
    (rb"\x04\x22\x4d\x18", "an lz4 file", _UNPACK),
    (rb"\xff\x06\0\0sNaPpY", "a Snappy file", _UNPACK),
    (rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (rb"Rar!", "a RAR archive", _UNPACK),
    (rb"\xff\xfe\0\0", "UTF-32 text", _UTF8.replace("16", "32")),
    (rb"\0\0\xfe\xff", "UTF-32 text", _UTF8.replace("16", "32")),
    (rb"\xff\xfe", "UTF-16 text", _UTF8),
    (rb"\xfe\xff", "UTF-16 text", _UTF8),
    (rb"\xd0\xcf\x11\xe0", "an Excel workbook", _EXPORT),
    (rb"SQLite format 3", "an SQLite database", _EXPORT),
    (rb"\x89HDF", "an HDF5 file", _EXPORT),
    (rb"\x93NUMPY", "a NumPy array", _EXPORT),
    (rb"\x80[\x02-\x05]", "a pickle, which is never read", _EXPORT),
    (rb"RDX", "an R workspace", _EXPORT),
    (rb"MATLAB 5", "a MATLAB file", _EXPORT),
    (rb"X\n\0\0", "an R object", _EXPORT),
    (rb"PAR1", "a Parquet file where text is read", _INSIDE),
    (rb"ARROW1", "an Arrow file where text is read", _INSIDE),
    (rb"\xff\xff\xff\xff", "an Arrow stream", "write it as an Arrow file (Feather)"),
    (rb"FEA1", "a Feather file of version 1", "write it again as version 2"),
    (rb"ORC", "an ORC file", _EXPORT),
    (rb"Obj\x01", "an Avro file", _EXPORT),
    (rb"%PDF", "a PDF", _EXPORT),
    (rb"\x89PNG", "an image", _EXPORT),
    (rb"version https://git-lfs", "a Git LFS pointer", "fetch the file with git lfs pull"),
    (
        _INDENT + rb"<(?i:!doctype|html|head|body)\b",
        "a web page",
        "download the file itself",
    ),
    (_INDENT + rb"<\?(?i:xml)\b", "XML", _EXPORT),
    (
        _INDENT + rb"\[\s*\{",
        "a JSON array",
        "write one object a line, as jq -c '.[]' does",
    ),
    (rb"(?s).{257}ustar", "a tar archive", _UNPACK),
)


@dataclass(frozen=True)
class TextFile:
    """A text file, or a member of the zip archive at ``path``."""

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path} ({self.member})"

    @property
    def name(self) -> str:
        """The text's own file name, without folders and ``.gz``."""
        return Path(self.member or self.path).name.removesuffix(".gz")


@dataclass(frozen=True)
class Block:
    """Whole lines of a text file."""

    file: TextFile
    data: bytes  # UTF-8 without NUL and CRLF; the last byte is a newline
    first_line: int  # its number in the file, from 1


def line_error(file: TextFile, line: int, problem: str) -> UserError:
    """Return the error for ``problem`` at a line of a file."""
    return UserError(f"{file}, line {line}: {problem}")


def first_bytes(file: TextFile) -> bytes:
    """Return the first bytes of a file, whatever it holds."""
    with reading(file), file.path.open("rb") as raw:
        return raw.read(16)


@contextmanager
def reading(file: TextFile) -> Iterator[None]:
    """Turn the errors that can occur while ``file`` is read into a ``UserError``.

    Pipes and devices are not opened, because reading them may never end.
    """
    try:
        if is_special(file.path):
            raise UserError(f"{file}: is no regular file; copy what it gives to one")
        yield
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{file}: is a folder; name the file inside it") from None
    except EOFError:
        raise UserError(f"{file}: the file is cut short; fetch or copy it again") from None
    except KeyError:
        raise UserError(f"{file}: the archive has no such member") from None
    except (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise UserError(f"{file}: broken archive ({error}); fetch or copy it again") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None


def read_blocks(file: TextFile, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """Yield the lines of a text file in blocks of about ``block_bytes``.

    A file that begins with 1f 8b is read as gzip, whatever its name; other binary files are
    refused, with their kind. Memory is bounded by the block and ``MAX_LINE_BYTES``.
    """
    line, empty = 1, True
    with _opened(file) as (stream, limit):
        for data in _whole_lines(file, stream, block_bytes, limit):
            empty = False
            block = _checked(Block(file, data, line))
            line += block.data.count(b"\n")
            yield block
    if empty:
        raise UserError(f"{file}: the file is empty")


def read_whole(file: TextFile) -> bytes:
    """Return the bytes of a small text file; ``UserError`` as from ``read_blocks``."""
    parts, left = list[bytes](), ALWAYS_ALLOWED_BYTES
    with _opened(file) as (stream, _):
        # In blocks, as ``read`` takes the memory of all that it may read at once.
        while part := stream.read(BLOCK_BYTES):
            parts.append(part)
            left -= len(part)
            if left < 0:
                size = f"{ALWAYS_ALLOWED_BYTES >> 20} MiB"
                raise UserError(f"{file}: is longer than {size}; not read")
    return b"".join(parts)


@contextmanager
def _opened(file: TextFile) -> Iterator[tuple[_Stream, int | None]]:
    """Yield the stream of the text, and its largest allowed size if it is compressed."""
    with reading(file), ExitStack() as stack:
        stream: _Stream
        if file.member is not None:
            archive = stack.enter_context(zipfile.ZipFile(file.path))
            member = stack.enter_context(archive.open(file.member))
            assert isinstance(member, zipfile.ZipExtFile)
            stream, limit = member, most_bytes(archive.getinfo(file.member).compress_size)
        else:
            raw = stack.enter_context(file.path.open("rb"))
            stream, limit = raw, None
            if raw.peek(2).startswith(b"\x1f\x8b"):
                stream = stack.enter_context(gzip.GzipFile(fileobj=raw))
                limit = most_bytes(file.path.stat().st_size)
        _check_is_text(file, stream.peek(512)[:512])
        yield stream, limit


def _check_is_text(file: TextFile, head: bytes) -> None:
    """Raise ``UserError`` if the first bytes of a file are those of a known kind of other files."""
    for pattern, kind, advice in _KINDS:
        if re.match(pattern, head):
            raise UserError(f"{file}: is {kind}; {advice}")
    few, many = sorted((head[0::2].count(0), head[1::2].count(0)))
    if len(head) >= 8 and 3 * many > len(head) and 8 * few < many:
        raise UserError(f"{file}: looks like UTF-16 text; {_UTF8}")


def most_bytes(compressed_bytes: int) -> int:
    """Return the most that a compressed file may expand to; beyond, it is taken for a bomb."""
    return compressed_bytes * MAX_EXPANSION + ALWAYS_ALLOWED_BYTES


def _whole_lines(file: TextFile, stream: _Stream, size: int, limit: int | None) -> Iterator[bytes]:
    rest, total = b"", 0
    while chunk := stream.read(size):
        total += len(chunk)
        if limit is not None and total > limit:
            raise UserError(
                f"{file}: expands to more than {MAX_EXPANSION} times its size, which no list of "
                "interactions does; unpack it yourself if it is genuine"
            )
        cut = chunk.rfind(b"\n") + 1
        if cut:
            yield rest + chunk[:cut]
            rest = chunk[cut:]
        else:
            rest += chunk
        if len(rest) > MAX_LINE_BYTES:
            raise UserError(f"{file}: a line is longer than {MAX_LINE_BYTES >> 20} MiB; not text?")
    if rest:
        yield rest + b"\n"


def _checked(block: Block) -> Block:
    data, problem = block.data, "holds a NUL byte; not a UTF-8 text file"
    if (bad := data.find(b"\0")) < 0 and not data.isascii():
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            bad = error.start
            problem = f"byte 0x{data[bad]:02x} is not UTF-8; convert the file with iconv"
    if bad >= 0:
        raise line_error(block.file, block.first_line + data.count(b"\n", 0, bad), problem)
    if _BYTE_ORDER_MARK in data:  # also where files were joined, or a program wrote two
        data = re.sub(rb"(?m)^(?:\xef\xbb\xbf)+", b"", data)
    if b"\r" in data:  # Windows ends lines by CR LF, and files converted twice by CR CR LF
        data = data.replace(b"\r\r\n", b"\n").replace(b"\r\n", b"\n")
    return Block(block.file, data, block.first_line)
