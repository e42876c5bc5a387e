"""Tables of the user: encodings fitted on the training rows, missing values, and what is refused."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.sources.table import Table


def people(num: int = 100, seed: int = 0) -> pd.DataFrame:
    draws = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": draws.integers(18, 80, num),
            "job": draws.choice(["baker", "cook", "nurse"], num),
            "since": 1.7e9 + np.arange(num),
            "floor": draws.integers(1, 4, num),
            "income": np.array(["high", "low"])[np.arange(num) % 2],
        }
    )


def write(folder: Path, frame: pd.DataFrame, name: str = "people.csv") -> str:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    frame.to_parquet(file) if name.endswith(".parquet") else frame.to_csv(file, index=False)
    return str(file)


def normalised(data: Dataset, part: str) -> np.ndarray:
    return np.asarray((getattr(data, part).images - np.array(data.mean)) / np.array(data.std))


def test_numbers_are_standardised_and_categories_are_one_hot(tmp_path: Path) -> None:
    frame = people()
    data = Table(path=write(tmp_path, frame), target="income", categorical=("floor",)).load()
    assert (data.classes, data.image_shape, data.pixels) == (("high", "low"), (8,), False)
    rows = data.test.row_ids
    of_train = frame.iloc[data.train.row_ids]
    expected = [
        (frame["age"].to_numpy() - of_train["age"].mean()) / of_train["age"].std(ddof=0),
        *[(frame["job"] == job).to_numpy() for job in ("baker", "cook", "nurse")],
        (frame["since"].to_numpy() - of_train["since"].mean()) / of_train["since"].std(ddof=0),
        *[(frame["floor"] == floor).to_numpy() for floor in (1, 2, 3)],
    ]
    np.testing.assert_allclose(normalised(data, "test"), np.column_stack(expected)[rows], atol=1e-5)
    np.testing.assert_array_equal(frame["income"].to_numpy()[rows] == "low", data.test.labels)


def test_what_is_fitted_does_not_look_at_other_rows(tmp_path: Path) -> None:
    frame = people()
    before = Table(path=write(tmp_path, frame), target="income").load()
    outside = np.setdiff1d(np.arange(100), before.train.row_ids)
    frame.loc[outside, "age"] += 1000
    after = Table(path=write(tmp_path, frame), target="income").load()
    assert (after.mean, after.std) == (before.mean, before.std)
    np.testing.assert_array_equal(after.train.images, before.train.images)
    assert after.fingerprint != before.fingerprint


def test_missing_numbers_get_the_median_of_the_training_rows_and_a_mark(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = people().drop(columns=["since", "floor"])
    frame.loc[::10, "age"] = np.nan
    frame.loc[::7, "job"] = None
    with caplog.at_level(logging.WARNING):
        data = Table(path=write(tmp_path, frame), target="income").load()
    rows = data.train.row_ids
    median = np.nanmedian(frame["age"].to_numpy()[rows])
    missing = (rows % 10 == 0).astype(np.float32)
    np.testing.assert_array_equal(data.train.images[:, 0][missing == 1], 0)
    np.testing.assert_array_equal(data.train.images[:, 1], missing)
    np.testing.assert_array_equal(data.train.images[:, 5], rows % 7 == 0)  # after baker, cook and nurse
    counts = {part: int((getattr(data, part).row_ids % 10 == 0).sum()) for part in ("train", "val", "calib", "test")}
    listed = ", ".join(f"{count} {part}" for part, count in counts.items() if count)
    assert f"column age: {listed} rows get the median {median:g}, and a feature says so" in caplog.text


def test_ordinal_categories_are_one_feature(tmp_path: Path) -> None:
    frame = people()
    data = Table(path=write(tmp_path, frame), target="income", encoding="ordinal", drop=("age", "since", "floor")).load()
    assert data.image_shape == (1,)
    order = {"baker": 0, "cook": 1, "nurse": 2}
    assert data.test.images[:, 0].tolist() == [order[job] for job in frame["job"].to_numpy()[data.test.row_ids]]


def test_a_folder_has_a_file_for_each_split_of_any_format(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "people", people(), "train.csv")
    write(tmp_path / "people", people(20, seed=1)[["income", "floor", "since", "job", "age"]], "val.parquet")
    strange = people(30, seed=2)
    strange.loc[3, "job"] = "astronaut"
    write(tmp_path / "people", strange, "test.parquet")
    with caplog.at_level(logging.WARNING):
        data = Table(path=str(tmp_path / "people"), target="income").load()
    assert [len(split) for split in (data.train, data.val, data.calib, data.test)] == [90, 20, 10, 30]
    np.testing.assert_array_equal(data.test.images[3, 1:4], 0)
    np.testing.assert_array_equal(data.val.images[:, 1], people(20, seed=1)["job"] == "baker")
    assert "column job: 1 test rows have a category that no training row has, the first is 'astronaut'" in caplog.text


def test_a_column_of_splits_gives_the_data_of_a_file_for_each(tmp_path: Path) -> None:
    split = np.random.default_rng(0).permutation(["train"] * 60 + ["val"] * 10 + ["test"] * 30)
    frame, options = people(), {"target": "income"}
    named = write(tmp_path, frame.assign(split=split))
    data = Table(path=named, **options).load()
    assert [len(rows) for rows in (data.train, data.val, data.calib, data.test)] == [54, 10, 6, 30]
    for part in ("train", "val", "test"):
        write(tmp_path / "parts", frame[split == part], f"{part}.csv")
    assert data.fingerprint == Table(path=str(tmp_path / "parts"), **options).load().fingerprint
    assert Table(path=named, **options, categorical=("split",)).load().image_shape == (9,)
    without = Table(path=write(tmp_path, frame, "without.csv"), **options).load()
    assert Table(path=named, **options, drop=("split",)).load().fingerprint == without.fingerprint
    for part in ("train", "test"):
        write(tmp_path / "both", frame.assign(split=part), f"{part}.csv")
    with pytest.raises(ValueError, match="both, column split names splits, as the files do; list split in drop"):
        Table(path=str(tmp_path / "both"), **options).load()
    other = write(tmp_path, frame.assign(split=np.where(split == "train", "yes", "no")), "other.csv")
    assert Table(path=other, **options).load().image_shape == (8,)


@pytest.mark.parametrize(("start", "is_named"), [(0, True), (1, True), (2, False)])
def test_a_column_that_numbers_the_rows_is_named(
    start: int, is_named: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, people().assign(id=start + np.arange(100)))
    with caplog.at_level(logging.WARNING):
        Table(path=path, target="income").load()
    assert (f"people.csv, column id numbers the rows in order, from {start}: it tells" in caplog.text) == is_named
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        Table(path=path, target="income", drop=("id",)).load()
    assert "numbers the rows" not in caplog.text


def test_parquet_and_csv_give_the_same_data(tmp_path: Path) -> None:
    frame = people()
    frame.loc[5, "floor"] = None
    options: dict[str, Any] = {"target": "income", "categorical": ("floor",)}
    csv = Table(path=write(tmp_path, frame), **options).load()
    assert Table(path=write(tmp_path, frame, "people.parquet"), **options).load().fingerprint == csv.fingerprint


def test_a_category_is_one_whatever_else_is_in_the_column_of_a_long_file(tmp_path: Path) -> None:
    others = tuple(f"other {i}" for i in range(510))  # by default pandas reads 1024 rows of 512 columns at a time
    codes = [*[""] * 40, *["1"] * 1200, *["x"] * 40]
    rows = [f"{code},{'ab'[row % 2]}{',' * len(others)}" for row, code in enumerate(codes)]
    (tmp_path / "long.csv").write_text("\n".join([",".join(["code", "kind", *others]), *rows]))
    with pytest.raises(ValueError, match=r"column code has 3 different values, such as '1' and 'x'"):
        Table(path=str(tmp_path / "long.csv"), target="kind", max_categories=2, drop=others).load()


def test_other_files_do_not_decide_how_training_rows_are_encoded(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    write(folder, people(), "train.parquet")
    alone = Table(path=str(folder), target="income").load()
    write(folder, people(20, seed=1).assign(age=None, floor=np.nan, since=pd.NaT), "val.parquet")
    beside = Table(path=str(folder), target="income", calib_fraction=0).load()
    assert (alone.image_shape, beside.image_shape) == ((6,), (6,))
    np.testing.assert_array_equal(beside.val.images[:, [0, 4, 5]], 0)  # age, since and floor get the medians
    write(folder, changed(age=["unknown", *[30] * 99]).astype({"age": str}), "val.parquet")
    with pytest.raises(ValueError, match=r"parts, val, column age has text, such as 'unknown', where the training"):
        Table(path=str(folder), target="income").load()
    write(folder, changed(age=[30.0, 1e39] * 50), "val.parquet")
    with pytest.raises(ValueError, match=r"parts, val, column age, row 1 is 1e\+39; it must be a finite number"):
        Table(path=str(folder), target="income").load()


def changed(**columns: Any) -> pd.DataFrame:
    return people().assign(**columns)


@each_case(
    ("frame", "fields", "message"),
    [
        (people(), {"target": "incme"}, r"target has 'incme', which is no column of .*people\.csv; .* did you mean income\?"),
        (people(), {"drop": ("Age",)}, r"drop has 'Age', which is no column of .* did you mean age\?"),
        (people(), {"separator": ";"}, r"its columns are age,job,.*; the file has one column, so set separator"),
        (people(), {"target": "age"}, r"column age has \d+ different values in 100 rows .* regression is not supported"),
        (changed(income=0.5), {}, r"column income, row 0 has the label 0.5; .* regression is not supported"),
        (changed(income="low"), {}, r"column income has only the class low; it must have two classes or more"),
        (changed(income=["low", None] * 50), {}, r"people\.csv, column income, row 1 has no value; .* None, NA and null count"),
        (changed(age=[1.0] * 7 + [-2e38] * 93), {}, r"people\.csv, column age, row \d+ is -2e\+38; .* of at most 1\.7e\+38"),
        (changed(age=np.inf), {}, r"people\.csv, column age, row 1 is inf; it must be a finite number, or missing"),
        (changed(age=np.nan), {}, r"column age has no value in the training rows; name it in drop"),
        (changed(job=[f"job {i}" for i in range(100)]), {"max_categories": 50}, r"column job has \d+ different .* 50; raise"),
        (people().reset_index(names=""), {}, r"column 1 of 6 has no name, .*; list 'Unnamed: 0' in drop, or give it"),
        (changed(split=["train", "tset"] * 50), {}, r"column split, row 1 is 'tset'; as other rows .*; did you mean test\?"),
        (changed(split=["Train", None] * 50), {}, r"column split, row 0 is 'Train'; .* val, calib, test; list split in drop"),
        (changed(split=["val", "test"] * 50), {}, r"column split has val, test; train must be one of the splits"),
        (
            changed(age=[*map(str, range(1, 97)), "?", "?", "?", ""]),
            {"max_categories": 50},
            r"column age holds text: \d+ of \d+ values are numbers, and the others are '\?'; leave these empty where",
        ),
        (people()[["income"]], {}, r"has no column besides the target 'income'"),
    ],
)
def test_tables_that_do_not_fit_are_refused_by_column(
    frame: pd.DataFrame, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        Table(**{"path": write(tmp_path, frame), "target": "income", **fields}).load()


def test_dates_and_ambiguous_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"column age holds dates; name it in drop"):
        Table(path=write(tmp_path, changed(age=pd.Timestamp("2024-01-01")), "people.parquet"), target="income").load()
    with pytest.raises(ValueError, match=r"categorical has 'income', which is the target"):
        Table(path="people.csv", target="income", categorical=("income",))
    write(tmp_path / "two", people(), "train.csv")
    write(tmp_path / "two", people(), "train.parquet")
    with pytest.raises(ValueError, match=r"train\.csv and train\.parquet are the same split"):
        Table(path=str(tmp_path / "two"), target="income").load()
