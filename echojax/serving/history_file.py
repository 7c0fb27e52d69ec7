"""Recommendations for a file of histories, streamed; an interrupted request can be continued."""

import hashlib
import itertools
import json
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from echojax.data.recognise import is_no_history
from echojax.data.tables import begin_text
from echojax.data.text import TextFile, line_error
from echojax.errors import UserError
from echojax.files import check_output_folder
from echojax.lock import hold
from echojax.serving.item_ids import with_times
from echojax.serving.recommender import Recommender

_FLUSH = 1024  # the number of answers between two flushes of the output


def read_histories(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield user and items, oldest first, of lines ``user item item ...``, plain or gzip.

    Blank lines, and comments above all others, are skipped, as in training. A file that begins like
    a table, JSON or lists is refused: its lines would be users without items, or with times and
    ratings as items.
    """
    lines, first, blocks = begin_text(TextFile(path))
    refused = bool(lines) and is_no_history(lines)
    for block in itertools.chain([first], blocks):
        for number, line in enumerate(block.data.split(b"\n"), block.first_line):
            if found := line.split():
                if refused:
                    start = line.decode(errors="replace")[:60]
                    raise line_error(
                        block.file,
                        number,
                        f"{start!r} is no history; write lines of a user and items, oldest first, "
                        "with blanks between them",
                    )
                # Each distinct item of a long history is decoded, and held in memory, once.
                decoded = {word: word.decode() for word in found}
                user, *items = (decoded[word] for word in found)
                yield user, items


def check_files(histories: Path, output: Path) -> None:
    """Raise ``UserError`` if histories are missing, or ``output`` exists or cannot be created."""
    check_output_folder(output)
    _check_absent(output)
    if histories.is_dir():
        raise UserError(f"--histories {histories} is a folder; name the file inside it")
    if not histories.is_file():
        what = "no regular file" if histories.exists() else "no such file"
        raise UserError(f"--histories {histories}: {what}; check the path")


def _check_absent(output: Path) -> None:
    if os.path.lexists(output):
        raise UserError(f"--output {output} exists; delete it or name another file")


def answer_file(
    recommender: Recommender,
    histories: Path,
    output: Path,
    k: int,
    *,
    exclude_seen: bool = True,
) -> Iterator[int]:
    """Write one JSON object per history to ``output``; repeatedly yield how many are written.

    Each has "user", "items", "scores", "by" and "unknown" (see ``Recommendation``). Until all are
    written, they are in a file with another name in the same folder. If that is interrupted, the
    same request continues after the last whole batch in this file. The last number yielded is the
    number of histories.
    """
    check_files(histories, output)
    info = histories.stat()
    asked = [str(histories.resolve()), info.st_size, info.st_mtime_ns, k, exclude_seen]
    request = [recommender.fingerprint, *asked]
    key = hashlib.sha256(json.dumps(request).encode()).hexdigest()[:12]
    partial = output.with_name(f".{output.name}.{key}.partial")
    try:
        with _only_writer(partial, output) as file:
            done = _keep_whole_batches(file, recommender.batch_size)
            yield done
            for line in _answers(recommender, histories, done, k, exclude_seen):
                file.write(line)
                done += 1
                if done % _FLUSH == 0:
                    file.flush()
                    yield done
            file.flush()
            os.fsync(file.fileno())
            _check_absent(output)
            os.replace(partial, output)
        yield done
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror})") from None


@contextmanager
def _only_writer(partial: Path, output: Path) -> Iterator[BinaryIO]:
    """Open the partial output of a request, with a lock against other processes.

    Links are not followed, and hard links and special files are refused, since another user may
    have put them there. If the file is empty in the end, it is deleted.
    """
    if partial.is_symlink():
        raise UserError(f"{partial} is a link, which is never written to; delete it")
    # O_NOFOLLOW makes the call fail if a link was created in between.
    handle = os.open(partial, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    with os.fdopen(handle, "rb+") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise UserError(f"{partial} is no file of its own; delete it")
        lock_file = output.with_name(f"{partial.name.removesuffix('partial')}lock")
        with hold(lock_file, handle, f"writes --output {output}"):
            if not partial.exists() or not os.path.samestat(partial.stat(), os.fstat(handle)):
                raise UserError(f"--output {output} was just finished by another process")
            try:
                yield file
            finally:
                file.flush()
                if partial.exists() and not partial.stat().st_size:
                    partial.unlink()


def _answers(
    recommender: Recommender, path: Path, skip: int, k: int, exclude_seen: bool
) -> Iterator[bytes]:
    """Yield the answers as lines of JSON, from history number ``skip`` on."""
    users: deque[str] = deque()  # users of the histories that are not answered yet

    def timed(user: str, items: list[str]) -> Sequence[object]:
        pairs = with_times(items)
        try:
            recommender.events(pairs)
        except UserError as error:
            raise UserError(f"{path}: user {user!r:.50}: {error}") from None
        return pairs

    def histories() -> Iterator[Sequence[object]]:
        for number, (user, items) in enumerate(read_histories(path)):
            if number >= skip:
                users.append(user)
                yield items if recommender.gap_unit is None else timed(user, items)

    for answer in recommender.recommend_each(histories(), k, exclude_seen=exclude_seen):
        line: dict[str, Any] = {"user": users.popleft(), "items": answer.item_ids}
        line |= {"scores": answer.scores, "by": answer.by, "unknown": answer.unknown}
        yield json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _keep_whole_batches(file: BinaryIO, batch_size: int) -> int:
    """Truncate a file after its last whole batch; return the number of lines that are left.

    Whole batches make the answers the same to the bit, wherever the request was interrupted.
    """
    lines, kept, end, kept_end = 0, 0, 0, 0
    for line in file:
        if not line.endswith(b"\n"):
            break
        lines, end = lines + 1, end + len(line)
        if lines % batch_size == 0:
            kept, kept_end = lines, end
    file.truncate(kept_end)
    file.seek(kept_end)
    return kept
