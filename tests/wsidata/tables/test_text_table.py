import numpy as np
import pandas as pd
import pytest

from wsidata.tables.text_table import TableError, read_text_table
from wsidata.utils.messages import describe_problems


def write(folder, text, name="table.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("image,class\n007,normal\n008,tumor\n", "utf-8"),
        ("image,class\r\n007,normal\r\n008,tumor\r\n", "utf-8-sig"),
        ("image;class\n007;normal\n008;tumor\n", "utf-8"),
        ("image\tclass\n007\tnormal\n008\ttumor", "utf-8"),
        (" image , class\n 007 , normal \n\n 008, tumor\n\n", "utf-8"),
        ('"image","class"\n"007","normal"\n"008","tumor"\n', "utf-8"),
        ("image,class,\n007,normal,\n008,tumor,\n", "utf-8"),
        ("sep=;\r\nimage;class\r\n007;normal\r\n008;tumor\r\n", "utf-8-sig"),
        ("SEP=,\nimage,class\n007,normal\n008,tumor\n", "utf-8"),
        ('"sep=\t"\nimage\tclass\n007\tnormal\n008\ttumor\n', "utf-8"),
    ],
    ids=["plain", "bom-crlf", "semicolon", "tab", "blanks", "quoted", "trailing-comma", "excel", "sep", "sep-tab"],
)
def test_every_dialect_gives_the_same_text(tmp_path, text, encoding):
    table = read_text_table(write(tmp_path, text, encoding=encoding))
    assert table.frame.to_dict("list") == {"image": ["007", "008"], "class": ["normal", "tumor"]}


def test_words_that_mean_missing_to_pandas_stay_words(tmp_path):
    table = read_text_table(write(tmp_path, "image,class\na,NA\nb,None\nc,nan\n"))
    assert table.frame["class"].tolist() == ["NA", "None", "nan"]


def test_places_are_line_numbers_of_the_file(tmp_path):
    table = read_text_table(write(tmp_path, "image,class\na,x\n\nb,y\n"))
    assert table.places == ("line 2", "line 4")


def test_the_separator_of_the_first_line_counts_and_lines_keep_their_numbers(tmp_path):
    table = read_text_table(write(tmp_path, "sep=;\na,b;class\n1,5;x\n\n2;y\n"))
    assert table.frame.to_dict("list") == {"a,b": ["1,5", "2"], "class": ["x", "y"]}
    assert table.places == ("line 3", "line 5")


@pytest.mark.parametrize("as_frame", [False, True])
def test_names_of_columns_are_composed(tmp_path, as_frame):
    decomposed = "Pra\u0308parat"
    path = write(tmp_path, f"{decomposed},class\na,x\n")
    table = read_text_table(pd.DataFrame({decomposed: ["a"], "class": "x"}) if as_frame else path)
    assert list(table.frame.columns) == ["Präparat", "class"]


def test_frame_cells_become_text_without_the_float_tail():
    frame = pd.DataFrame({"image": ["01", " b "], "class": [1.0, np.nan], "n": [1, 2]}, index=[10, 20])
    table = read_text_table(frame)
    assert table.frame.to_dict("list") == {"image": ["01", "b"], "class": ["1", ""], "n": ["1", "2"]}
    assert table.places == ("row 10", "row 20")
    assert table.numeric_columns == {"class", "n"}


def test_parquet_keeps_leading_zeros(tmp_path):
    pd.DataFrame({"image": ["001"], "class": ["x"]}).to_parquet(tmp_path / "t.parquet")
    assert read_text_table(tmp_path / "t.parquet").frame["image"].tolist() == ["001"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,class\na,x,y\nb\n", r"2 problems.*\n.*line 2 has 3 cells.*\n.*line 3 has 1 cells"),
        ("image,image\na,b\n", "more than one column named"),
        ("image,class\n", "no rows"),
        ("", "no rows"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, text, message):
    with pytest.raises(TableError, match=message):
        read_text_table(write(tmp_path, text))


def test_other_encodings_and_kinds_are_refused(tmp_path):
    with pytest.raises(TableError, match=r"not UTF-8.*CSV UTF-8"):
        read_text_table(write(tmp_path, "image,class\nä,x\n", encoding="latin-1"))
    with pytest.raises(TableError, match=r"'.*table.xlsx' is not one of .csv.*Save it as CSV"):
        read_text_table(write(tmp_path, "", "table.xlsx"))
    with pytest.raises(TableError, match="does not exist"):
        read_text_table(tmp_path / "absent.csv")


def test_long_lists_of_problems_are_cut():
    message = describe_problems("t.csv", [f"p{i}" for i in range(30)], "Do this.", limit=3)
    assert message.splitlines() == [
        "'t.csv' has 30 problems:",
        "  - p0",
        "  - p1",
        "  - p2",
        "  ... and 27 more",
        "Do this.",
    ]


@pytest.mark.parametrize(
    "lines",
    [
        ['a,x,"5 mm', "b,y,", "c,z,"],
        ['a,"x,', "b,y,", "c,z,"],
        ['a,x,"5 mm" wide', "b,y,"],
    ],
)
def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path, lines):
    (tmp_path / "t.csv").write_text("\n".join(["image,class,note", "first,w,", *lines]) + "\n")
    with pytest.raises(TableError, match=r"t\.csv': the row that begins at line 3 cannot be read.*A quote"):
        read_text_table(tmp_path / "t.csv")


def test_quoted_cells_may_hold_separators_quotes_and_line_breaks(tmp_path):
    (tmp_path / "t.csv").write_text('image,note\r\na,"5, ""big""\nand more"\r\nb,plain\u2028text\r\n', newline="")
    table = read_text_table(tmp_path / "t.csv")
    assert table.frame.to_numpy().tolist() == [["a", '5, "big"\nand more'], ["b", "plain\u2028text"]]
    assert table.places == ("line 2", "line 4")


def test_cells_that_are_lists_become_text_that_means_the_same(tmp_path):
    frame = pd.DataFrame({"image": ["a", "b", "c"], "labels": [["x", "y"], [], np.array(["z"], dtype=object)]})
    for table in (frame, tmp_path / "t.parquet"):
        if table is not frame:
            frame.to_parquet(table)
        read = read_text_table(table)
        assert read.frame["labels"].tolist() == ["x; y", "none", "z"]
        assert read.list_columns == {"labels"}
    for odd in (["x", 3], ["x;y"], [""]):
        with pytest.raises(TableError, match=r"row 0: column 'labels' lists .*, which is no label"):
            read_text_table(pd.DataFrame({"labels": [odd]}))


def test_a_broken_parquet_file_is_named(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1" + bytes(40))
    with pytest.raises(TableError, match=r"t\.parquet' could not be read as Parquet"):
        read_text_table(tmp_path / "t.parquet")


def test_parquet_text_that_is_no_utf8_is_a_table_error(tmp_path):
    pd.DataFrame({"image": ["spiral.tif", "b.tif"], "class": ["x", "y"]}).to_parquet(
        tmp_path / "a.parquet", compression=None
    )
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data.replace(b"spiral", b"spi\xff\xfel"))
    with pytest.raises(TableError, match=r"a\.parquet' could not be read as Parquet"):
        read_text_table(tmp_path / "a.parquet")
