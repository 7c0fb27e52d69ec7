"""Inputs that are nearly right: chosen by the seed, some still valid, most not."""

import random

import pytest

from echojax.errors import UserError
from echojax.fuzzing.targets import all_targets


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return all_targets(tmp_path_factory.mktemp("made"))


def test_the_seed_decides(targets):
    for target in targets.values():
        one, same, other = (
            [target.mutate(target.valid[0], rng) for _ in range(9)]
            for rng in (random.Random(1), random.Random(1), random.Random(2))
        )
        assert one != other
        if b"PK" not in one[0]:  # archives hold the time
            assert one == same


def test_what_inputs_are_made_from_is_valid(targets, tmp_path):
    for number, target in enumerate(targets.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, content in target.others:
            (folder / name).write_bytes(content)
        if target.file.endswith((".gz", ".zip", ".whl")):
            continue  # packed by the mutation
        (folder / target.file).write_bytes(target.valid[0])
        target.read(folder)


def test_rubbish_is_refused(targets, tmp_path):
    target = targets["results.json"]
    for name, content in target.others:
        (tmp_path / name).write_bytes(content)
    (tmp_path / target.file).write_bytes(b'{"config": {}}')
    with pytest.raises(UserError, match="has no 'dataset'"):
        target.read(tmp_path)
