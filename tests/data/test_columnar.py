import io

import polars as pl
import pytest

from echojax.errors import UserError
from tests.data import histories, items_by_user, load, read

ROWS = [
    (u, f"i{(u * 7 + n * 3) % 5}", 1_600_000_000 + 10 * u - n) for u in range(6) for n in range(5)
]
FRAME = pl.DataFrame(ROWS, schema=["user_id", "item_id", "timestamp"], orient="row")
FORMATS = ["parquet", "arrow"]


def written(frame, data_format):
    buffer = io.BytesIO()
    frame.write_parquet(buffer) if data_format == "parquet" else frame.write_ipc(buffer)
    return buffer.getvalue()


@pytest.fixture
def save(write):
    def save_frame(frame, data_format, name="log.bin"):
        return write(name, written(frame, data_format))

    return save_frame


@pytest.fixture
def expected(write):
    return histories(read(write("log.csv", FRAME.write_csv())))


WHEN = pl.from_epoch("timestamp").dt.replace_time_zone("Europe/Berlin", ambiguous="earliest")
DRESSES = {
    "as it is": FRAME,
    "text": FRAME.cast(pl.String),
    "categories": FRAME.with_columns(pl.col("item_id").cast(pl.Categorical)),
    "floats of pandas": FRAME.with_columns(pl.col("user_id").cast(pl.Float64)),
    "decimals": FRAME.with_columns(
        pl.col("user_id").cast(pl.Decimal(38, 0)), pl.col("timestamp").cast(pl.Decimal(20, 3))
    ),
    "dates": FRAME.with_columns(WHEN.cast(pl.Datetime("ns", "Europe/Berlin"))),
    "another name": FRAME.select("item_id", pl.lit([1]).alias("l"), WHEN.alias("when"), "user_id"),
}


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("dress", DRESSES)
def test_the_same_histories_as_from_text(dress, data_format, save, expected):
    assert histories(read(save(DRESSES[dress], data_format))) == expected


BAD = {
    "list of items": (FRAME.with_columns(item_id=pl.lit([1])), "column 'item_id' holds List"),
    "dates as users": (
        FRAME.with_columns(user_id=pl.from_epoch("timestamp")),
        "'user_id' holds Da",
    ),
    "half": (FRAME.with_columns(pl.col("user_id") / 2), "row 6: user_id 0.5 is no id"),
    "half a decimal": (
        FRAME.with_columns((pl.col("user_id") / 2).cast(pl.Decimal(9, 2))),
        "row 6: user_id 0.50 is no id",
    ),
    "no time": (
        FRAME.with_columns(timestamp=pl.when(pl.col("user_id") < 5).then("timestamp")),
        "row 26: the time is missing",
    ),
    "no user": (
        FRAME.with_columns(user_id=pl.when(pl.col("user_id") < 5).then("user_id")),
        "row 26: empty user id; 5 of 30 rows have no user id (empty); leave them out with",
    ),
    "bad time": (FRAME.with_columns(timestamp=pl.lit("noon")), "row 1: time 'noon' is not"),
    "no rows": (FRAME.head(0), "no interactions"),
    "no item": (FRAME.drop("item_id"), "no item column among user_id, timestamp"),
    "newline": (FRAME.with_columns(item_id=pl.lit("a\nb")), "row 1: an id holds a tab or newline"),
}


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("case", BAD)
def test_bad_tables_name_the_row_or_the_column(case, data_format, save):
    frame, message = BAD[case]
    with pytest.raises(UserError) as raised:
        read(save(frame, data_format))
    assert message in str(raised.value)
    assert "log.bin" in str(raised.value)


def test_gaps_in_floats_are_missing_users(save):
    frame = FRAME.with_columns(
        user_id=pl.when(pl.col("user_id") < 5).then(pl.col("user_id")).cast(pl.Float64)
    )
    source = read(save(frame, "parquet"), missing="drop")
    assert histories(source).keys() == {"0", "1", "2", "3", "4"}
    assert source.notes[-1] == "5 of 30 rows have no user id (empty): left out"


@pytest.mark.parametrize("data_format", FORMATS)
def test_damaged_files_are_said_in_one_line(data_format, save, capfd):
    data = written(FRAME, data_format)
    path = save(FRAME, data_format)
    for cut in (7, 20, len(data) // 2, len(data) - 5):
        path.write_bytes(data[:cut])
        with pytest.raises(UserError, match=r"log.bin: (damaged|is a|claims)") as raised:
            read(path)
        assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_more_rows_than_a_file_can_hold_are_refused(save, monkeypatch):
    monkeypatch.setattr("echojax.data.text.ALWAYS_ALLOWED_BYTES", 1 << 16)
    with pytest.raises(UserError, match="claims 1,000,000 rows in"):
        read(save(pl.DataFrame({"user": 1, "item": pl.repeat(1, 10**6, eager=True)}), "parquet"))


def test_the_format_is_the_files_own(save, write):
    path = save(FRAME, "parquet")
    assert read(path, "parquet").frame.height == 30
    with pytest.raises(UserError, match="is a file of format parquet; drop --data-format csv"):
        read(path, "csv")
    with pytest.raises(UserError, match="has names of its own; drop --columns"):
        read(path, names="user,item,time")
    with pytest.raises(UserError, match="is no arrow file; drop --data-format"):
        read(write("a.csv", "user,item\n1,2\n"), "arrow")
    with pytest.raises(UserError, match="is a Parquet file where text is read; unpack it"):
        read(write("log.gz", written(FRAME, "parquet")))


def test_a_folder_of_parts_and_a_pattern_are_one_file(save, write, tmp_path):
    for part, start in enumerate(range(0, 30, 7)):
        save(FRAME.slice(start, 7), "parquet", f"parts/day={part}/part-{part}.parquet")
        write(f"text/part-{part}.csv", FRAME.slice(start, 7).write_csv())
    write("parts/_SUCCESS", "")
    folder = load(tmp_path / "parts")
    pattern = load(str(tmp_path / "text/part-*.csv"))
    listed = load(sorted((tmp_path / "text").iterdir()))
    whole = load(write("log.csv", FRAME.write_csv()))
    for dataset in (folder, pattern, listed):
        assert dataset.fingerprint["sha256"] == whole.fingerprint["sha256"]
    assert (folder.name, pattern.name) == ("parts", "text")
    write("text/part-4.csv", "item,user\na,b\n")
    with pytest.raises(UserError, match=r"part-4.csv: is read as csv \(user user,.*must have the"):
        load(str(tmp_path / "text/part-*.csv"))
    with pytest.raises(UserError, match=r"no-\*.csv: no file matches this pattern"):
        load(str(tmp_path / "no-*.csv"))
    write("text/readme.md", "")
    with pytest.raises(UserError, match=r"text: is a folder, not of parts of one kind"):
        load(tmp_path / "text")


def test_empty_parts_say_nothing_about_the_columns(save, write, tmp_path, expected):
    dated = FRAME.rename({"timestamp": "event_time"})
    for number, part in enumerate((dated.head(0), dated, dated.head(0))):
        save(part, "parquet", f"parquet/part-{number}.parquet")
        write(f"csv/part-{number}.csv", part.write_csv())
    for folder in ("parquet", "csv"):
        assert items_by_user(load(tmp_path / folder)) == expected


def test_a_file_is_named_once(save, write, tmp_path):
    rows = "user,item\n1,2\n2,3\n"
    for name in ("a.csv", "b.csv", "more/c.csv", "gz/a.csv", "gz/a.csv.gz"):
        write(f"parts/{name}" if "gz/" not in name else name, rows)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/folder").symlink_to(tmp_path / "parts")
    dataset = load(tmp_path / "linked")
    assert dataset.items_T.size == 6
    shown = dataset.fingerprint["source"]["notes"][-1]
    assert shown.startswith("no times: events are in the order of the files, which is ")
    assert shown.index("a.csv") < shown.index("b.csv") < shown.index("c.csv")
    (tmp_path / "parts/latest.csv").symlink_to("b.csv")
    for path in (tmp_path / "parts", str(tmp_path / "gz/a*"), [tmp_path / "parts/a.csv"] * 2):
        with pytest.raises(UserError, match=r"\.csv(\.gz)?: is .*[ab]\.csv once more; name one of"):
            load(path)
    with pytest.raises(UserError, match="--data-path is empty; name a file or a folder"):
        load("")


def test_pieces_of_a_file_and_tables_with_versions(save, write, tmp_path):
    write("split/xaa", "item,user,time\n5,1,1600000000\n")
    write("split/xab", "6,1,1600000001\n")
    with pytest.raises(UserError, match=r"xab: has no header, and .*xaa has one; write it into"):
        load(str(tmp_path / "split/xa*"))
    save(FRAME, "parquet", "lake/part-0.parquet")
    for folder in ("_delta_log", ".hoodie"):
        write(f"lake/{folder}/0.json", "{}")
        with pytest.raises(UserError, match=r"lake: is a table with versions \((_delta|\.hood)"):
            load(tmp_path / "lake")


def test_parts_are_read_in_the_order_of_their_numbers(write, tmp_path):
    for part in (1, 2, 10):
        write(f"parts/part-{part}.csv", f"user,item\n1,{part}\n2,{part}\n")
    for path in (tmp_path / "parts", str(tmp_path / "parts/part-*.csv")):
        dataset = load(path)
        assert dataset.item_ids[dataset.items_T].tolist() == ["1", "2", "10"] * 2


def test_a_part_that_is_a_link_to_nothing_is_named(write, tmp_path):
    write("parts/a.csv", "user,item\n1,2\n2,3\n")
    (tmp_path / "parts/b.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(UserError, match=r"b\.csv: is a link to nothing; delete it, or restore"):
        load(tmp_path / "parts")


def test_copies_of_notebooks_and_folders_that_cannot_be_read(write, tmp_path, monkeypatch):
    rows = "user,item\n1,2\n2,3\n"
    write("parts/a.csv", rows)
    write("parts/.ipynb_checkpoints/a-checkpoint.csv", rows)
    write("parts/_temporary/0/b.csv", rows)
    dataset = load(tmp_path / "parts")
    assert dataset.items_T.size == 2

    def scandir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(UserError, match=r"parts: cannot be read \(Permission denied\)"):
        load(tmp_path / "parts")
