"""The small files as people have them, and what is right for each."""

import csv

import polars as pl
import pytest

from echojax.data import item_titles
from echojax.errors import UserError, one_line
from echojax.serving.history_file import read_histories
from tests.conftest import SHARED
from tests.data import histories, in_time_order, read, rows_of

CASES = SHARED / "cases"
pytestmark = pytest.mark.skipif(
    not CASES.is_dir(), reason=f"shared cases not found: {CASES} (set $ECHOJAX_SHARED)"
)


@pytest.fixture(scope="module")
def base():
    return histories(read(CASES / "base.csv"))


def renamed(base, user="{}", item="{}"):
    return {user.format(u): [item.format(i) for i in items] for u, items in base.items()}


SAME = [
    *("iso.csv", "crcrlf_lastitem.csv", "hdr_typed_space.inter", "hdr_typed_comma.inter"),
    *("noheader4.csv", "noheader4_semicolon.csv", "order_uitr_noheader.csv", "quoted.tsv"),
    "spaceaftercomma.csv",
]


@pytest.mark.parametrize("name", SAME)
def test_the_same_events_in_another_dress(name, base):
    assert histories(read(CASES / name)) == base


@pytest.mark.parametrize(
    ("name", "user", "item"),
    [("spaces.csv", "user {}", "{}"), ("nbsp.csv", "{}", "\xa0{}"), ("colon.csv", "u{}", ":{}")],
)
def test_blanks_inside_ids_and_colons_stay(name, user, item, base):
    found = histories(read(CASES / name))
    if name == "colon.csv":  # each item has a prefix of its own
        found = {u: [":" + i.rpartition(":")[2] for i in items] for u, items in found.items()}
    assert found == renamed(base, user, item)


def test_large_numbers_are_text_like_any_other_id(base):
    expected = {str(2**63 + int(user)): items for user, items in base.items()}
    assert histories(read(CASES / "big64.csv")) == expected


def test_newest_first_is_ordered_by_the_dates():
    with (CASES / "dated.csv").open() as file:
        rows = [(row["user_id"], row["item_id"], row["date"]) for row in csv.DictReader(file)]
    assert histories(read(CASES / "dated.csv")) == in_time_order(rows)


def test_dates_as_one_number_are_said():
    (note,) = read(CASES / "date_yyyymmdd.csv").notes
    assert "numbers that look like dates (YYYYMMDD)" in note


def test_nanoseconds_keep_their_order():
    source = read(CASES / "ns_100apart_reversed.csv")
    assert source.frame["time"].dtype == pl.Int64
    lines = (CASES / "ns_100apart_reversed.csv").read_text().split()[:0:-1]
    assert histories(source) == in_time_order((*line.split(",")[:2], 0) for line in lines)
    assert "epoch nanoseconds" in source.notes[0]


REFUSED = {
    "timecomma.csv": ["line 2: time '1600310241,5' is not a finite number"],
    "yoochoose-clicks.dat": ["'1,2020-09-23T09:37:10.000Z,214530007,0'", "--columns user,time,it"],
    "listening.txt": ["'0\\t2\\t100\\t207\\t1600853830'", "what the 5 columns are", "--columns"],
    "NA_user.csv": ["line 2: user id 'NA'", "16 of 96 rows have no user id (NA)", "--missing-ids"],
    "null.csv": ["line 2: user id 'NULL'", "16 of 96 rows have no user id (NULL)", "--missing-ids"],
    "item-views.csv": ["360 of 480 rows have no user id (NA)", "--missing-ids drop", "keep"],
    "utf16.csv": ["is UTF-16 text; convert it"],
    "zip.zip": ["is a zip archive; unpack it"],
    "bz2.csv.bz2": ["is a bzip2 file; unpack it"],
    "gzgz.csv.gz": ["is gzip inside gzip; unpack it once"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_safely_is_said_in_one_line(name):
    with pytest.raises(UserError) as raised:
        read(CASES / name)
    message = one_line(raised.value)
    assert message.startswith(str(CASES / name))
    for part in REFUSED[name]:
        assert part in str(raised.value)


@pytest.mark.parametrize(("name", "word"), [("NA_user.csv", "NA"), ("null.csv", "NULL")])
def test_missing_users_are_kept_or_dropped_when_asked_for(name, word, base):
    kept, dropped = (read(CASES / name, missing=missing) for missing in ("keep", "drop"))
    assert f"16 of 96 rows have no user id ({word}): kept as ids" in kept.notes
    assert f"16 of 96 rows have no user id ({word}): left out" in dropped.notes
    without = {user: items for user, items in histories(kept).items() if user != word}
    assert histories(dropped) == without
    assert without.items() <= base.items()
    items = dropped.frame["item"]  # still numbered by first appearance
    assert items.unique(maintain_order=True).to_physical().to_list() == [*range(items.n_unique())]


def test_sessions_in_place_of_missing_users():
    source = read(CASES / "item-views.csv", user="session_id")
    assert source.frame["user"].n_unique() == 40
    assert any("'timeframe'" in note and "'eventdate'" in note for note in source.notes)


def test_columns_told_by_flags():
    clicks = read(CASES / "yoochoose-clicks.dat", names="user,time,item,_")
    assert {item for _, item, _ in rows_of(clicks)} <= {str(214530000 + n) for n in range(15)}
    assert clicks.frame["user"].n_unique() == 40
    songs = read(CASES / "listening.txt", names="user,artist,album,item,time")
    assert songs.frame.height == 480
    assert all(item.startswith("2") for _, item, _ in rows_of(songs))


def test_the_training_file_given_as_histories_has_no_unknown_item():
    trained = read(CASES / "h_nbsp.txt")
    asked = dict(read_histories(CASES / "h_nbsp.txt"))
    assert asked == histories(trained)


def test_titles_may_hold_any_space():
    assert len(item_titles("x", data_path=CASES / "ti_nel.inter")) == 8


def test_every_case_is_tested():
    others = {"base.csv", "README.md", "spaces.csv", "nbsp.csv", "colon.csv", "big64.csv"}
    others |= {"dated.csv", "date_yyyymmdd.csv", "ns_100apart_reversed.csv", "h_nbsp.txt"}
    assert {path.name for path in CASES.iterdir()} == {*SAME, *REFUSED, *others, "ti_nel.item"}
