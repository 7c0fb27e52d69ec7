"""Pickles that are made to harm: nothing runs, nothing is imported, nothing grows."""

import os
import pickle
import pickletools
import struct
import sys

import pytest

from echojax.interop.pickle_program import read_pickle
from echojax.interop.pickle_values import Opaque


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _by_hand(path):
    """Return pickles that call by other ways than REDUCE."""
    text = f"S'{path}'\n".encode()
    return {
        "INST": b"(" + text + b"ios\nmkdir\n.",
        "OBJ": b"(cos\nmkdir\n" + text + b"o.",
        "NEWOBJ": b"cos\nmkdir\n" + text + b"\x85\x81.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93" + text + b"\x85R.",
        "BUILD": b"cos\nmkdir\n" + text + b"b.",
    }


@pytest.mark.parametrize("protocol", range(1, pickle.HIGHEST_PROTOCOL + 1))  # 0: DICT
def test_a_call_is_not_made(tmp_path, protocol):
    program = pickle.dumps({"x": Harm(tmp_path / "made")}, protocol)
    value = read_pickle(program)
    assert value == {"x": Opaque(f"{os.mkdir.__module__}.mkdir")}
    assert not (tmp_path / "made").exists()
    pickle.loads(program)  # the pickle would do harm indeed
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("way", _by_hand(""))
def test_nor_by_other_ways(tmp_path, way):
    program = _by_hand(tmp_path / "made")[way]
    assert any(op.name in way for op, _, _ in pickletools.genops(program))
    if way in ("INST", "OBJ"):
        with pytest.raises(ValueError, match=f"operation {way}, which torch does not write"):
            read_pickle(program)
    else:
        assert read_pickle(program) == Opaque("os.mkdir")
    assert not (tmp_path / "made").exists()


def test_nothing_is_imported():
    assert "antigravity" not in sys.modules
    assert read_pickle(b"cantigravity\nfly\n)R.") == Opaque("antigravity.fly")
    assert "antigravity" not in sys.modules


def test_methods_and_results_of_known_functions_do_nothing():
    ordered = b"ccollections\nOrderedDict\n"
    assert read_pickle(ordered + b")R}X\x01\x00\x00\x00aK\x01sb.") == {}
    assert read_pickle(ordered + b"]\x85R.") == Opaque("OrderedDict of items")
    with pytest.raises(ValueError, match="cannot be called"):
        read_pickle(ordered + b")R)R.")  # the dictionary itself
    with pytest.raises(ValueError, match="broken pickle"):
        read_pickle(b"ctorch._utils\n_rebuild_parameter\n)R.")
    with pytest.raises(ValueError, match="unknown kind"):
        read_pickle(b"ctorch._utils\n_rebuild_tensor_v2\n)R.")


DEEP = 100_000
GROWING = {
    "deep tuples as a key": b"})" + b"\x85" * DEEP + b"K\x01s.",
    "deep tuples": b")" + b"\x85" * DEEP + b".",
    "deep dictionaries": b"}" + b"X\x01\x00\x00\x00a}" * DEEP + b"s" * DEEP + b".",
    "a far place in the memo": b"Nr\xff\xff\xff\xff.",
    "a frame without end": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    "tuples of twice the one before": b")" + b"2\x86" * 10_000 + b".",
    "a dictionary in itself": b"}q\x00X\x01\x00\x00\x00ah\x00s.",
}


@pytest.mark.parametrize("kind", GROWING)
def test_growth_is_bounded(kind):
    read_pickle(GROWING[kind])


REFUSED = {
    "more than 1000000 operations": b"N" * 1_000_001 + b".",
    "a pickle of 16777217 bytes": b"N" * (2**24 + 1),
    "exhausted": b"(((",
    "takes more than there is": b"\x86.",
    "takes more than": b"NN(\x86t.",
    "broken pickle: it takes": b".",
    "pop from empty list": b"NNt.",
    "broken pickle: 7": b"h\x07.",
    "expected 4294967295 bytes|but only": b"X\xff\xff\xff\xffa.",
    "broken pickle: .*bytes": b"\x8d" + struct.pack("<Q", 2**62) + b"a.",
    "broken pickle: .*(digit|invalid)": b"I" + b"9" * 5000 + b"\n.",
    "operation EXT1": b"\x82\x01.",
    "operation PERSID": b"Px\n.",
    "no text": b"K\x01K\x02\x93.",
    "broken pickle: zip": b"}(X\x01\x00\x00\x00au.",
    "broken pickle": b"S'\\d'\n.",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_torch_never_writes_is_refused(words):
    with pytest.raises(ValueError, match=words):
        read_pickle(REFUSED[words])
