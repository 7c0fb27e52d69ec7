"""A file of histories answered line by line: streamed, and continued where it was cut off."""

import hashlib
import json
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from echojax.data.text import TextFile, read_blocks, words
from echojax.errors import UserError
from echojax.lock import hold
from echojax.serving.item_ids import with_times
from echojax.serving.recommender import Recommender

_FLUSH = 1024  # answers between writes to the disk


class UserHistory(NamedTuple):
    """A line: the user and the items, oldest first."""

    user: str
    items: list[str]


def read_histories(path: Path) -> Iterator[UserHistory]:
    """Yield the histories of a file with lines of ``user item item ...``, plain or gzip.

    Blank lines are passed over: one at the end should not cost a long file its answer.
    """
    for block in read_blocks(TextFile(path)):
        for line in block.data.split(b"\n"):
            if found := words(line):
                # A long history of few items takes the memory of these few.
                decoded = {word: word.decode() for word in found}
                user, *items = (decoded[word] for word in found)
                yield UserHistory(user, items)


def check_files(histories: Path, output: Path) -> None:
    """Raise ``UserError`` where the one file is missing or the other is there."""
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
    """Write one JSON object a history to ``output``; yield now and then how many there are.

    Each has "user", "items", "scores", "by" and "unknown" (see ``Recommendation``). Until the last
    one is written they stand in a file of another name in the same folder; the same request goes on
    after the last whole batch of it. The last number yielded is that of all.
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
    """Open the file of an unfinished request, which no other process writes meanwhile.

    A link is never followed, and what is no file of its own is refused: anybody may have put it
    there. An empty one is deleted in the end.
    """
    if partial.is_symlink():
        raise UserError(f"{partial} is a link, which is never written to; delete it")
    # Where a link is put there in between, no-follow makes the call fail.
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
    """Yield the answers as lines, from history number ``skip`` on."""
    users: deque[str] = deque()  # of the histories that were read and not answered yet

    def timed(history: UserHistory) -> Sequence[object]:
        pairs = with_times(history.items)
        try:
            recommender.events(pairs)
        except UserError as error:
            raise UserError(f"{path}: user {history.user!r:.50}: {error}") from None
        return pairs

    def items() -> Iterator[Sequence[object]]:
        for number, history in enumerate(read_histories(path)):
            if number >= skip:
                users.append(history.user)
                yield history.items if recommender.gap_unit is None else timed(history)

    for answer in recommender.recommend_each(items(), k, exclude_seen=exclude_seen):
        line: dict[str, Any] = {"user": users.popleft(), "items": answer.item_ids}
        line |= {"scores": answer.scores, "by": answer.by, "unknown": answer.unknown}
        yield json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _keep_whole_batches(file: BinaryIO, batch_size: int) -> int:
    """Cut off what comes after the last whole batch and return how many lines are left.

    Batches of the same rows give the same bits, wherever a file was cut off.
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
