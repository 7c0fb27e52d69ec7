"""A file of histories answered line by line: streamed, and continued where it was cut off."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from echojax.data.text import TextFile, read_blocks, words
from echojax.errors import UserError
from echojax.serving.recommender import Recommender

_FLUSH = 1024  # answers between writes to the disk


class UserHistory(NamedTuple):
    """A line: the user and the items, oldest first."""

    user: str
    items: list[str]


def read_histories(path: Path) -> Iterator[UserHistory]:
    """Yield the histories of a file with lines of ``user item item ...``, plain or gzip.

    Blank lines are passed over: one at the end should not cost a long file its answer.

    Raises:
        UserError: the file cannot be read.
    """
    for block in read_blocks(TextFile(path)):
        for line in block.data.split(b"\n"):
            if found := [word.decode() for word in words(line)]:
                yield UserHistory(found[0], found[1:])


def check_files(histories: Path, output: Path) -> None:
    """Raise ``UserError`` where the one file is missing or the other is there."""
    if output.exists():
        raise UserError(f"--output {output} exists; delete it or name another file")
    if histories.is_dir():
        raise UserError(f"--histories {histories} is a folder; name the file inside it")
    if not histories.is_file():
        raise UserError(f"--histories {histories}: no such file; check the path")


def answer_file(
    recommender: Recommender,
    histories: Path,
    output: Path,
    k: int,
    *,
    exclude_seen: bool = True,
    report: Callable[[int], None] = lambda done: None,
) -> int:
    """Write one JSON object a history to ``output``; return how many there are.

    Each has "user", "items", "scores", "by" and "unknown" (see ``Recommendation``). Until the last
    one is written they stand in a file of another name in the same folder; the same request goes on
    behind the last whole batch of it.

    Args:
        recommender: answers.
        histories: the file read.
        output: the file written.
        k: recommendations a history.
        exclude_seen: leave out what the history holds.
        report: told now and then, and however it ends, how many are done.

    Raises:
        UserError: ``output`` exists, or a file cannot be read or written.
    """
    check_files(histories, output)
    info = histories.stat()
    asked = [str(histories.resolve()), info.st_size, info.st_mtime_ns, k, exclude_seen]
    request = [recommender.fingerprint, *asked]
    key = hashlib.sha256(json.dumps(request).encode()).hexdigest()[:12]
    partial = output.with_name(f".{output.name}.{key}.partial")
    done = 0
    try:
        done = _whole_batches(partial, recommender.batch_size)
        with partial.open("ab") as file:
            for line in _answers(recommender, histories, done, k, exclude_seen):
                file.write(line)
                done += 1
                if done % _FLUSH == 0:
                    file.flush()
                    report(done)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, output)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror})") from None
    finally:
        report(done)
        if partial.exists() and not partial.stat().st_size:
            partial.unlink()
    return done


def _answers(
    recommender: Recommender, path: Path, skip: int, k: int, exclude_seen: bool
) -> Iterator[bytes]:
    """Yield the answers as lines, from history number ``skip`` on."""
    users: deque[str] = deque()  # of the histories that were read and not answered yet

    def items() -> Iterator[list[str]]:
        for number, history in enumerate(read_histories(path)):
            if number >= skip:
                users.append(history.user)
                yield history.items

    for answer in recommender.recommend_each(items(), k, exclude_seen=exclude_seen):
        line: dict[str, Any] = {"user": users.popleft(), "items": answer.item_ids}
        line |= {"scores": answer.scores, "by": answer.by, "unknown": answer.unknown}
        yield json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _whole_batches(partial: Path, batch_size: int) -> int:
    """Cut off what is behind the last whole batch and return how many lines there are.

    Batches of the same rows give the same bits, wherever a file was cut off.
    """
    if not partial.exists():
        return 0
    lines, kept, end, kept_end = 0, 0, 0, 0
    with partial.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            lines, end = lines + 1, end + len(line)
            if lines % batch_size == 0:
                kept, kept_end = lines, end
        file.truncate(kept_end)
    return kept
