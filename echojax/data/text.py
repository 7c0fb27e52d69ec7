"""Text files as blocks of whole lines: plain, gzip, or inside a zip; errors name their line."""

import gzip
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from echojax.errors import UserError

BLOCK_BYTES = 8 << 20
MAX_LINE_BYTES = 16 << 20
# Text of interactions compresses 3 to 20 times; what expands further is a decompression bomb.
MAX_EXPANSION = 100
ALWAYS_ALLOWED_BYTES = 256 << 20

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class TextFile:
    """A text file, or a member of a zip archive.

    Attributes:
        path: The file.
        member: Name inside the archive at ``path``; None where ``path`` itself is the text.
    """

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
    """Whole lines of a text file.

    Attributes:
        file: The file, for error messages.
        data: UTF-8 bytes without NUL and CRLF; the last byte is a newline.
        first_line: Number of the block's first line in the file, from 1.
        line_numbers: Number of each line, where they do not simply follow one another.
    """

    file: TextFile
    data: bytes
    first_line: int
    line_numbers: Sequence[int] | None = None

    def error(self, position: int, problem: str) -> UserError:
        """Return the error for ``problem`` at byte ``position``, naming file and line."""
        line = self.data.count(b"\n", 0, position)
        number = self.line_numbers[line] if self.line_numbers else self.first_line + line
        return line_error(self.file, number, problem)


def line_error(file: TextFile, line: int, problem: str) -> UserError:
    """Return the error for ``problem`` at a line of a file."""
    return UserError(f"{file}, line {line}: {problem}")


@contextmanager
def reading(file: TextFile) -> Iterator[None]:
    """Turn what can go wrong while ``file`` is read into a ``UserError``."""
    try:
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

    A first byte pair 1f 8b means gzip, whatever the name says. Memory stays bounded by the block
    and ``MAX_LINE_BYTES``.

    Raises:
        UserError: The file is missing, unreadable, empty, a broken archive, no UTF-8 text, or
            expands suspiciously far.
    """
    line, empty = 1, True
    with reading(file), ExitStack() as stack:
        stream, limit = _open(file, stack)
        for data in _whole_lines(file, stream, block_bytes, limit):
            if empty:
                data, empty = data.removeprefix(_BYTE_ORDER_MARK), False
            block = _checked(Block(file, data, line))
            line += block.data.count(b"\n")
            yield block
    if empty:
        raise UserError(f"{file}: the file is empty")


def read_whole(file: TextFile) -> bytes:
    """Return the bytes of a small text file.

    Raises:
        UserError: The file is missing, unreadable, a broken archive, or longer than
            ``ALWAYS_ALLOWED_BYTES``.
    """
    with reading(file), ExitStack() as stack:
        stream, _ = _open(file, stack)
        data = stream.read(ALWAYS_ALLOWED_BYTES + 1)
    if len(data) > ALWAYS_ALLOWED_BYTES:
        raise UserError(f"{file}: is longer than {ALWAYS_ALLOWED_BYTES >> 20} MiB; not read")
    return data


class _Reads(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _open(file: TextFile, stack: ExitStack) -> tuple[_Reads, int | None]:
    """Return the stream of the text, and how long it may get where it is compressed."""
    if file.member is not None:
        archive = stack.enter_context(zipfile.ZipFile(file.path))
        size = archive.getinfo(file.member).compress_size
        return stack.enter_context(archive.open(file.member)), _limit(size)
    raw = stack.enter_context(file.path.open("rb"))
    compressed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    if not compressed:
        return raw, None
    return stack.enter_context(gzip.GzipFile(fileobj=raw)), _limit(file.path.stat().st_size)


def _limit(compressed_bytes: int) -> int:
    return compressed_bytes * MAX_EXPANSION + ALWAYS_ALLOWED_BYTES


def _whole_lines(file: TextFile, stream: _Reads, size: int, limit: int | None) -> Iterator[bytes]:
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
    data = block.data
    if (nul := data.find(b"\0")) >= 0:
        raise block.error(nul, "holds a NUL byte; not a UTF-8 text file")
    if not data.isascii():
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            problem = f"byte 0x{data[error.start]:02x} is not UTF-8; convert the file with iconv"
            raise block.error(error.start, problem) from None
    return Block(block.file, data.replace(b"\r\n", b"\n"), block.first_line)
