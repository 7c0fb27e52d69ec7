"""Flags of no use are refused in one line, before anything is measured or written."""

import jax
import pytest

import gpu_acceptance
import peers
import scaling
import scans
import serving
import step
import tune_scans
from echojax.command_line import parse
from echojax.errors import UserError


@pytest.mark.parametrize(
    ("script", "words", "says"),
    [
        (scans, "--shape 1,2,3", "--shape '1,2,3' is not B,L,E,N"),
        (scans, "--shape 1,2,3,0", "--shape '1,2,3,0' is not B,L,E,N"),
        (scans, "--implementations tilled", "did you mean 'tiled'"),
        (scans, "--dtypes float16", "--dtypes"),
        (scans, "--seconds 0", "--seconds must be above 0 and finite, not 0"),
        (scans, "--max-memory-gib nan", "--max-memory-gib must be above 0 and finite, not nan"),
        (scans, "--module none.py:scan", "no such file; name a scan as FILE.py:FUNCTION"),
        (serving, "--models sasrek", "unknown model in --models 'sasrek'; did you mean 'sasrec'"),
        (serving, "--streams bert4rec", "unknown model in --streams 'bert4rec'"),
        (serving, "--lengths 5 0", "--lengths must be 1 or more, not 0"),
        (serving, "--catalogues 1", "--catalogues must be 2 or more, not 1"),
        (serving, "--cores 0", "--cores must be from 1 to"),
        (scaling, "--devices 3", "--devices must be a power of two, not 3"),
        (scaling, "--large-items 100", "--large-items 100 is not a multiple of --devices 8"),
        (scaling, "--rows 12", "--rows 12 is not a multiple of --devices 8"),
        (step, "--item-shards 3", "--items 100000 is not a multiple of --item-shards 3"),
        (step, "--events 16 --sequence-shards 8", "--sequence-shards 8 leaves too little"),
        (gpu_acceptance, "--dry-run --data-dir .", "holds no ml-1m; put ml-1m.* there"),
        (gpu_acceptance, "--dry-run --before .", "holds no benchmarks/scans.py"),
        (peers, "--dropouts 0 1.5", r"--dropouts must be at least 0 and below 1, not 1\.5"),
    ],
)
def test_flags_of_no_use_are_refused(script, words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        script.main(parse(script.Flags, args=words.split()))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU here")
@pytest.mark.parametrize(
    ("script", "words", "says"),
    [
        (tune_scans, "", "; --dry-run tries a tiny size"),
        (gpu_acceptance, "", "; --dry-run runs every section"),
        (scans, "--implementations pallas_gpu", ""),
    ],
)
def test_without_a_gpu_one_line_says_so(script, words, says):
    with pytest.raises(UserError, match=rf"pallas_gpu .*needs an NVIDIA GPU; this is \w+{says}"):
        script.main(parse(script.Flags, args=words.split()))
