"""Text files as blocks of whole lines, plain or gzip, with every error at its line."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from echojax.errors import UserError

BLOCK_BYTES = 8 << 20
MAX_LINE_BYTES = 16 << 20
# Text of interactions compresses 3 to 20 times; what expands further is a decompression bomb.
MAX_EXPANSION = 100
ALWAYS_ALLOWED_BYTES = 256 << 20

_BOM = b"\xef\xbb\xbf"


class _Reads(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Block:
    """Whole lines of a text file.

    Attributes:
        path: The file, for error messages.
        data: UTF-8 bytes without a carriage return or NUL; the last byte is a newline.
        first_line: Number of the block's first line in the file, from 1.
    """

    path: Path
    data: bytes
    first_line: int

    def line_at(self, position: int) -> int:
        """Return the number in the file, from 1, of the line that holds byte ``position``."""
        return self.first_line + self.data.count(b"\n", 0, position)

    def error(self, position: int, problem: str) -> UserError:
        """Return the error for ``problem`` at byte ``position``, naming file and line."""
        return line_error(self.path, self.line_at(position), problem)


def line_error(path: Path, line: int, problem: str) -> UserError:
    """Return the error for ``problem`` at a line of a file."""
    return UserError(f"{path}, line {line}: {problem}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what can go wrong while ``path`` is read into a ``UserError``."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name the file inside it") from None
    except EOFError:
        raise UserError(f"{path}: the gzip file is cut short; fetch or copy it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: broken gzip file ({error}); fetch or copy it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """Yield the lines of a text file in blocks of about ``block_bytes``.

    A first byte pair 1f 8b means gzip, whatever the name says. Memory stays bounded by the block
    and ``MAX_LINE_BYTES``.

    Raises:
        UserError: The file is missing, unreadable, empty, a broken gzip file, no UTF-8 text, or
            expands suspiciously far.
    """
    with reading(path), open(path, "rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: _Reads = gzip.GzipFile(fileobj=raw) if compressed else raw
        limit = path.stat().st_size * MAX_EXPANSION + ALWAYS_ALLOWED_BYTES if compressed else None
        line, empty = 1, True
        for data in _whole_lines(path, stream, block_bytes, limit):
            if empty:
                data, empty = data.removeprefix(_BOM), False
            block = _checked(Block(path, data, line))
            line += block.data.count(b"\n")
            yield block
    if empty:
        raise UserError(f"{path}: the file is empty")


def _whole_lines(path: Path, stream: _Reads, size: int, limit: int | None) -> Iterator[bytes]:
    rest, total = b"", 0
    while chunk := stream.read(size):
        total += len(chunk)
        if limit is not None and total > limit:
            raise UserError(
                f"{path}: expands to more than {MAX_EXPANSION} times its size, which no list of "
                "interactions does; unpack it yourself if it is genuine"
            )
        cut = chunk.rfind(b"\n") + 1
        if cut:
            yield rest + chunk[:cut]
            rest = chunk[cut:]
        else:
            rest += chunk
        if len(rest) > MAX_LINE_BYTES:
            raise UserError(f"{path}: a line is longer than {MAX_LINE_BYTES >> 20} MiB; not text?")
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
            byte = data[error.start]
            raise block.error(
                error.start, f"byte 0x{byte:02x} is not UTF-8; convert the file with iconv"
            ) from None
    return Block(block.path, data.replace(b"\r\n", b"\n"), block.first_line)
