"""Archives that are nearly right: what they hold changed, or their own bytes."""

import gzip
import io
import random
import zipfile

from echojax.fuzzing.mutations import Mutation, mutate_bytes, mutate_text


def in_gzip(mutate: Mutation) -> Mutation:
    """Return a mutation of a text that stands in a gzip file, or of the gzip file's bytes."""

    def mutation(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.6:
            return gzip.compress(mutate(data, rng), compresslevel=1, mtime=0)
        return mutate_bytes(gzip.compress(data, compresslevel=1, mtime=0), rng)

    return mutation


def in_zip(mutate: Mutation, member: str) -> Mutation:
    """Return a mutation of a text that is a member of an archive, or of the archive."""

    def packed(data: bytes, rng: random.Random) -> bytes:
        buffer, how = io.BytesIO(), rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with zipfile.ZipFile(buffer, "w", how) as archive:
            archive.writestr("../../outside", b"x")
            archive.writestr(member if rng.random() < 0.95 else member[1:], data)
        return buffer.getvalue()

    def mutation(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return packed(mutate(data, rng), rng)
        return mutate_bytes(packed(data, rng), rng)

    return mutation


def mutate_npz(data: bytes, rng: random.Random) -> bytes:
    """Change one array of an archive, most often its header, or the archive's bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(arrays))
    header, values = arrays[name][:128], arrays[name][128:]
    if rng.random() < 0.7:
        header = mutate_text(header, rng)
    else:
        values = mutate_bytes(values, rng)
    arrays[name] = header + values
    if rng.random() < 0.1:
        del arrays[rng.choice(list(arrays))]
    buffer = io.BytesIO()
    how = zipfile.ZIP_STORED if rng.random() < 0.9 else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for member, content in arrays.items():
            archive.writestr(member, content)
    return buffer.getvalue()
