"""Tables and arrays that cannot be used are refused by the name of column, sequence and row, with the remedy."""

import datetime
import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch

from zf_pyro.data import (
    Sequences,
    SeriesItem,
    collate_series,
    from_arrays,
    from_dataframe,
    from_folder,
    load_series,
    save_series,
)

COLUMNS = {"sequence": "id", "time": "t", "values": ["y", "z"]}


def table(**columns):
    """Two sequences of three days, with columns replaced or added."""
    frame = pd.DataFrame(
        {
            "id": list("aaabbb"),
            "t": [*pd.date_range("2024-01-01", periods=3)] * 2,
            "y": [1.0, 2.0, 4.0, 3.0, 5.0, 7.0],
            "z": [0.5, 1.5, 1.0, 2.0, 0.0, 1.0],
        }
    )
    return frame.assign(**columns)


def days(*numbers):
    return [pd.Timestamp(2024, 1, number) for number in numbers]


def refused(message, frame, error=ValueError, **arguments):
    with pytest.raises(error, match=message):
        from_dataframe(frame, **{**COLUMNS, **arguments})


# Times ----------------------------------------------------------------------------------------------------------------

TOKYO, BERLIN = "2024-01-01T00:00+09:00", "2024-01-01T00:00+01:00"


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (days(1, 2, 2, 1, 2, 3), r"two rows of sequence 'a' at t 2024-01-02 .*drop_duplicates\(\['id', 't'\]\)"),
        (days(1, 2, 3, 1, 3, 2), r"ascend within a sequence, got sequence 'b' at t 2024-01-02 .*sort_values"),
        ([0, 1, 2, 5, 4, 6], r"sequence 'b' at t 4 after 5: sort"),
        ([*days(1, 2, 3, 1, 2), pd.NaT], r"no time in row 5"),
        ([0.0, 1.0, np.inf, 0.0, 1.0, 2.0], r"infinite time in row 2"),
        ([0.0, 1.0, np.nan, 0.0, 1.0, 2.0], r"no time in row 2"),
        ([TOKYO, BERLIN] * 3, r"mixes time zones .*utc=True"),
        (["2024-01-01", BERLIN, "2024-01-03"] * 2, r"mixes time zones .*utc=True"),
        ([pd.Timestamp(TOKYO), pd.Timestamp(BERLIN), pd.Timestamp(TOKYO)] * 2, r"mixes time zones .*utc=True"),
        ([pd.Timestamp("2024-01-01"), pd.Timestamp(BERLIN), pd.Timestamp(TOKYO)] * 2, r"mixes time zones .*utc=True"),
        (["1 Jan", "2 Jan", "3 Jan"] * 2, r"no date of ISO 8601 .*format="),
        ([datetime.date(1066, 10, 14), datetime.date(1066, 10, 15), datetime.date(1066, 10, 16)] * 2, r"nanoseconds"),
    ],
)
def test_times_that_do_not_order_the_steps_are_refused(times, message):
    refused(message, table(t=times))


@pytest.mark.parametrize("times", [[True, False, True] * 2, pd.Categorical([1, 2, 3] * 2), [1j, 2j, 3j] * 2])
def test_columns_that_are_no_times_are_refused(times):
    refused("time column 't' must hold dates, durations or numbers", table(t=times), TypeError)


@pytest.mark.parametrize(
    ("times", "frequency", "message"),
    [
        (days(1, 2, 3, 1, 8, 15), "W-MON", r"sequence 'a' do not all lie on a grid .*2024-01-02 00:00:00 does not"),
        ([*days(1, 2, 3), pd.Timestamp(2024, 1, 1, 12), *days(2, 3)], "D", r"sequence 'b' .*dt.floor"),
        (days(2, 9, 10, 1, 2, 3), "MS", r"sequence 'a' do not all lie on a grid"),
        ([0, 2, 4, 0, 3, 4], 2, r"sequence 'b' do not all lie on a grid of frequency 2.0: 3 does not, 0 before it"),
        ([0.0, 0.2, 0.4, 0.0, 0.25, 0.4], 0.2, r"sequence 'b'"),
        ([0.0, 1.0, 1.0 + 1e-9, 0.0, 1.0, 2.0], 1.0, r"sequence 'a'"),
        (days(1, 2, 3, 1, 2, 3), "day", r"frequency must be a positive offset of pandas"),
        (days(1, 2, 3, 1, 2, 3), 1, r"frequency must be a positive offset .*are dates or durations"),
        (days(1, 2, 3, 1, 2, 3), "-1D", r"frequency must be a positive offset of pandas"),
        ([0, 1, 2] * 2, 0, r"frequency must be a number above 0"),
        ([0, 1, 2] * 2, "D", r"frequency must be a number above 0"),
        ([0, 1, 2] * 2, 0.5, r"frequency must be an integer"),
        (days(1, 2, 3, 1, 2, 3), "ns", r"makes about 3.46e\+14 steps of 6 rows"),
        (pd.to_timedelta([0, 1, 2] * 2, unit="D"), "MS", r"for durations"),
    ],
)
def test_times_off_the_grid_of_a_frequency_are_refused(times, frequency, message):
    refused(message, table(t=times), frequency=frequency)


def test_a_frequency_without_times_is_refused():
    refused("frequency needs times", table(), time=None, values=["y"], frequency="D")


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1.0, 2.0, np.inf, 1.0, 2.0, 3.0], ValueError, r"feature 'y' has an infinite value in row 2: .*replace"),
        ([np.nan] * 6, ValueError, r"feature 'y' has no value in any row"),
        ([None] * 6, ValueError, r"feature 'y' has no value in any row"),
        (["1", "2", "-", "1", "2", "3"], TypeError, r"feature 'y' must hold numbers, got '1' in row 0: .*to_numeric"),
        ([1.0, 2.0, "n/a", 1.0, 2.0, 3.0], TypeError, r"got 'n/a' in row 2"),
        (pd.Categorical([1, 2, 3] * 2).astype(str), TypeError, r"feature 'y' must hold numbers, got '1'"),
        (days(1, 2, 3, 1, 2, 3), TypeError, r"feature 'y' must hold numbers, got datetime64"),
        (pd.to_timedelta([1, 2, 3] * 2, unit="s"), TypeError, r"feature 'y' must hold numbers, got timedelta64"),
        ([1j] * 6, TypeError, r"feature 'y' must hold numbers, got complex128"),
        ([[1.0, 2.0]] * 6, TypeError, r"feature 'y' must hold numbers, got \[1.0, 2.0\] in row 0"),
        ([0.0, 5e-324, 0.0, 5e-324, 0.0, 5e-324], ValueError, r"'y' has values from 0 to .* no finite number above 0"),
    ],
)
def test_values_that_are_no_finite_numbers_are_refused(values, error, message):
    refused(message, table(y=values), error)


def test_integers_that_lose_digits_are_refused():
    refused(r"feature 'y' has an integer beyond 2\^53 in row 1", table(y=[0, 2**60 + 1, 0, 1, 2, 3]))
    refused(r"time column 't' has numbers beyond 2\^63", table(t=np.array([1, 2, 2**63 + 5, 1, 2, 3], np.uint64)))


def test_decimals_are_numbers():
    data = from_dataframe(table(y=[Decimal("1.5")] * 3 + [Decimal("2.5")] * 3), **COLUMNS)
    assert data.inverse(data[1].x)[:, 0].tolist() == [2.5] * 3


def test_values_beyond_float32_are_refused_in_original_units_alone():
    huge = [1e200, 2e200, 3e200, 1e200, 2e200, 5e200]
    refused("'y' has 1e[+]200, which float32 cannot hold", table(y=huge), scaling="none")
    assert from_dataframe(table(y=huge), **COLUMNS)[0].x.isfinite().all()


def test_a_sequence_of_which_nothing_was_seen_is_refused():
    frame = table()
    frame.loc[3:, ["y", "z"]] = np.nan
    refused("sequence 'b' has no value of any feature", frame)


def test_a_robust_scaling_without_a_range_is_refused():
    refused(
        r"'y' cannot be scaled by 'robust': .*all equal 0.*scaling={'y': 'standard'}",
        table(y=[0, 0, 0, 0, 0, 9]),
        scaling={"y": "robust"},
    )


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ("minmax", r"scaling must be one of \['none', 'robust', 'standard'\], got 'minmax'"),
        ({"y": "minmax"}, r"scaling\['y'\] must be one of"),
        ({"v": "none"}, r"scaling must name columns among 'y', 'z', 'k', got 'v'"),
        ({"k": "standard"}, r"scaling cannot be of 'k', which holds categories or flags"),
    ],
)
def test_other_scalings_are_refused(scaling, message):
    refused(message, table(k=list("uvuvuv")), covariates="k", scaling=scaling)


# Covariates -----------------------------------------------------------------------------------------------------------


def test_missing_covariates_are_refused_or_repeated():
    frame = table(c=[1.0, np.nan, 2.0, 3.0, 4.0, 5.0])
    refused(
        "covariate 'c' must be known at every step, it is missing in sequence 'a' at t 2024-01-02",
        frame,
        covariates="c",
    )
    data = from_dataframe(frame, **COLUMNS, covariates="c", fill_covariates="forward")
    assert data.steps(0).covariates[:, 0].tolist() == [1.0, 1.0, 2.0]


def test_a_fill_does_not_reach_across_sequences():
    frame = table(c=[1.0, 2.0, 3.0, np.nan, 4.0, 5.0])
    refused("missing in sequence 'b' at t 2024-01-01", frame, covariates="c", fill_covariates="forward")
    refused("missing in sequence 'b' at t 2024-01-01", table(c=["u", "u", "u", None, "v", "v"]), covariates="c")


def test_covariates_of_inserted_rows_are_refused_or_repeated():
    frame = table(c=range(6), t=days(1, 2, 4, 1, 2, 3))
    message = "missing in sequence 'a' at t 2024-01-03 00:00:00, a row that frequency='D' inserts: .*'forward'"
    refused(message, frame, covariates="c", frequency="D")


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        (["u", "v", 3, "u", "v", "u"], TypeError, r"covariate 'c' mixes text with int, as in row 2"),
        ([1.0, np.inf, 1.0, 1.0, 1.0, 1.0], ValueError, r"covariate 'c' has an infinite value in row 1"),
        (days(1, 2, 3, 1, 2, 3), TypeError, r"covariate 'c' must hold numbers, got datetime64"),
        (pd.Categorical(days(1, 2, 3, 1, 2, 3)), TypeError, r"covariate 'c' has categories that are Timestamp"),
    ],
)
def test_covariates_of_other_types_are_refused(column, error, message):
    refused(message, table(c=column), error, covariates="c")


def test_static_covariates_that_vary_are_refused():
    refused(
        "static covariate 'c' must be one value per sequence, it changes in sequence 'b'",
        table(c=list("uuuuvv")),
        static="c",
    )


def test_two_columns_of_covariates_with_one_name_are_refused():
    frame = table(c=list("uvuvuv"), **{"c=u": 1.0})
    refused("two covariates have a column 'c=u'", frame, covariates=["c", "c=u"])


def test_a_name_for_the_time_gap_that_is_taken_is_refused():
    refused("time_gap=True adds the covariate 'time_gap'", table(time_gap=1.0), covariates="time_gap", time_gap=True)


# Columns --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"values": ["y", "speed"]}, ValueError, r"values must name columns of the table, .*got 'speed'"),
        ({"time": "when"}, ValueError, r"time must name columns of the table"),
        ({"covariates": "y"}, ValueError, r"column 'y' is named as values and as covariates"),
        ({"covariates": "t"}, ValueError, r"column 't' is named as time and as covariates: .*a copy"),
        ({"values": ["y", "y"]}, ValueError, r"column 'y' is named twice in values"),
        ({"sequence": ["id", "y"]}, ValueError, r"sequence must be one column"),
        ({"values": {"y": ["y"]}}, TypeError, r"values must be names of columns, got dict: .*form='wide'"),
        ({"values": 1.5}, TypeError, r"values must be names of columns, got float"),
        ({"values": [None]}, TypeError, r"values must be names of columns, strings or integers, got None"),
        ({"form": "tall"}, ValueError, r"form must be one of"),
        ({"time_gap": "yes"}, TypeError, r"time_gap must be True or False"),
        ({"fill_covariates": "backward"}, ValueError, r"fill_covariates must be one of"),
        ({"like": 3}, TypeError, r"like must be a zf_pyro.data.Series, got int"),
    ],
)
def test_columns_that_are_not_there_or_named_twice_are_refused(arguments, error, message):
    refused(message, table(), error, **arguments)


def test_a_column_that_stands_twice_is_refused():
    frame = pd.concat([table(), table()[["y"]]], axis=1)
    refused("frame has 2 columns 'y'", frame)


def test_several_levels_of_columns_are_refused():
    frame = table()
    frame.columns = pd.MultiIndex.from_product([["m"], frame.columns])
    refused("one level of column names", frame)


@pytest.mark.parametrize(
    "index",
    [pd.date_range("2024-01-01", periods=6), list("uvwxyz"), pd.MultiIndex.from_product([list("ab"), [0, 1, 2]])],
)
def test_an_index_that_no_argument_names_is_refused(index):
    with pytest.raises(ValueError, match=r"index of \['index'\] that no argument names: .*time='index'"):
        from_dataframe(pd.DataFrame({"y": range(6)}, index=index))


@pytest.mark.parametrize(
    ("frame", "advice"),
    [
        ({"y": [1.0]}, r"got dict: give pandas.DataFrame"),
        ([[1.0, 2.0]], r"got list: give arrays to zf_pyro.data.from_arrays"),
        (np.zeros((3, 2)), r"got ndarray: give arrays"),
        (torch.zeros(3, 2), r"got Tensor: give arrays"),
        ("data.csv", r"got str: give a folder of files to zf_pyro.data.from_folder"),
        (None, r"got NoneType"),
    ],
)
def test_other_things_than_tables_are_refused(frame, advice):
    with pytest.raises(TypeError, match=rf"frame must be a table, such as a pandas.DataFrame, {advice}"):
        from_dataframe(frame)


def test_empty_tables_are_refused():
    refused("frame must hold rows", table()[:0])
    with pytest.raises(ValueError, match="frame must hold columns of values"):
        from_dataframe(table()[["id", "t"]], "id", "t")


def test_a_row_without_a_sequence_is_refused():
    refused("sequence column 'id' is missing in row 1", table(id=["a", None, "a", "b", "b", "b"]))


# Earlier data ---------------------------------------------------------------------------------------------------------


def test_new_data_unlike_the_earlier_are_refused():
    frame = table(c=list("uvuvuv"), d=1.5)
    data = from_dataframe(frame, **COLUMNS, covariates=["c", "d"])
    with pytest.raises(ValueError, match=r"'c' has the category 'w', .* first have not: they have \['u', 'v'\]"):
        from_dataframe(frame.assign(c=list("uvwuvw")), like=data)
    with pytest.raises(TypeError, match="covariate 'c' must hold categories as the earlier data"):
        from_dataframe(frame.assign(c=1.0), like=data)
    with pytest.raises(TypeError, match="covariate 'd' must hold numbers as the earlier data"):
        from_dataframe(frame.assign(d="u"), like=data)
    with pytest.raises(ValueError, match=r"must have the features \['y', 'z'\], got \['y'\]"):
        from_dataframe(frame, values=["y"], like=data)
    with pytest.raises(ValueError, match="values must name columns of the table"):
        from_dataframe(frame.drop(columns="z"), like=data)
    with pytest.raises(ValueError, match=r"must have times of TimeAxis.*datetime.*got.*integer"):
        from_dataframe(frame.assign(t=[0, 1, 2] * 2), like=data)
    with pytest.raises(ValueError, match="must have dates in no time zone, got Asia/Tokyo"):
        from_dataframe(frame.assign(t=frame["t"].dt.tz_localize("Asia/Tokyo")), like=data)
    with pytest.raises(ValueError, match="scaling is that of like"):
        from_dataframe(frame, like=data, scaling="none")
    with pytest.raises(ValueError, match="got data of arrays"):
        from_dataframe(frame, like=from_arrays([np.arange(3.0)]))
    with pytest.raises(TypeError, match=r"like must be a zf_pyro.data.Series, got int"):
        from_arrays([np.arange(3.0)], like=3)
    with pytest.raises(ValueError, match="scaling is that of like"):
        from_arrays([np.arange(3.0)], like=from_arrays([np.arange(3.0)]), scaling="none")


def test_new_data_may_lack_a_feature_altogether():
    data = from_dataframe(table(), **COLUMNS)
    new = from_dataframe(table(y=np.nan), like=data)
    assert not new[0].observed[:, 0].any()


def test_parts_in_another_scaling_are_refused(tmp_path):
    one, other = (from_dataframe(table(y=factor * np.arange(6.0)), **COLUMNS) for factor in (1.0, 2.0))
    with pytest.raises(ValueError, match=r"test must have the scaling of these data, 'y' minus 2.5 .* like="):
        save_series(tmp_path / "out", {"train": one, "test": other})
    with pytest.raises(ValueError, match=re.escape("test must have the features ['y', 'z'], got ['y']")):
        save_series(tmp_path / "out", {"train": one, "test": from_dataframe(table(), **{**COLUMNS, "values": "y"})})
    assert not (tmp_path / "out").exists()


def test_values_of_other_data_have_no_names_here():
    data = from_dataframe(table(), **COLUMNS)
    with pytest.raises(ValueError, match="values must have 2 features, 'y', 'z', in the last dimension"):
        data.inverse(torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match=r"3 entries along step, .*future=True for forecasts"):
        data.to_xarray(torch.zeros(2, 4, 2))
    with pytest.raises(ValueError, match=r"2 entries along sequence, .*indices="):
        data.to_pandas(torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match="dims must name each dimension"):
        data.to_xarray(torch.zeros(2, 3, 2), ("sequence", "step"))
    with pytest.raises(ValueError, match="indices must be positions of sequences, 0 to 1, got 7"):
        data.to_xarray(torch.zeros(1, 3, 2), indices=[7])
    with pytest.raises(ValueError, match="units must be one of"):
        data.inverse(torch.zeros(2, 3, 2), "metres")
    with pytest.raises(ValueError, match="dims must have a feature where units are 'values'"):
        data.to_xarray(torch.zeros(2, 3), units="values")


# Splits ---------------------------------------------------------------------------------------------------------------


def test_one_sequence_alone_is_not_split_by_sequence():
    data = from_dataframe(table()[:3], **COLUMNS)
    with pytest.raises(ValueError, match="needs 3 sequences at least, one per part, got 1: take by='time'"):
        data.split()
    assert [len(part) for part in data.split("time", validation=0.3, test=0.3)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "row"}, r"by must be one of \['sequence', 'time'\]"),
        ({"by": "time", "validation": 0.5, "test": 0.5}, r"must leave a part for training"),
        ({"by": "time", "validation": 0.5, "test": "2024-01-03"}, r"must both be parts between 0 and 1, or both times"),
        ({"by": "time", "validation": "2024-01-03", "test": "2024-01-02"}, r"validation must begin before test"),
        ({"by": "time", "validation": "soon", "test": None}, r"a time, such as '2024-01-31', got 'soon'"),
        ({"by": "time", "validation": "2024-01-01", "test": None}, r"train part holds no steps"),
        ({"by": "time", "validation": "2030-01-01", "test": None}, r"validation part holds no steps"),
        (
            {"by": "time", "validation": "2024-01-02", "test": None, "context": 2},
            r"1 of sequence 'a', got 2: .*at_least",
        ),
        ({"by": "time", "validation": "NaT", "test": None}, r"a time, such as '2024-01-31', got 'NaT'"),
        ({"by": "time", "validation": float("nan"), "test": None}, r"got nan \(the times are dates or durations\)"),
        ({"by": "time", "validation": -0.1, "test": None}, r"got -0.1 \(the times are dates or durations\)"),
        ({"by": "time", "validation": 3, "test": None}, r"got 3 \(the times are dates or durations\)"),
        ({"context": 1}, r"context is for by='time'"),
        ({"validation": 1.5}, r"validation must be between 0 and 1"),
    ],
)
def test_splits_without_a_meaning_are_refused(arguments, message):
    frame = pd.concat([table().assign(id=lambda rows, k=k: rows["id"] + str(k)) for k in ("", "2")])
    if "context" in arguments or arguments.get("by") == "time":
        frame = table()
    with pytest.raises(ValueError, match=message):
        from_dataframe(frame, **COLUMNS).split(**arguments)


def test_a_category_that_was_never_trained_is_refused():
    data = from_dataframe(table(c=list("uuuuuw")), **COLUMNS, covariates="c")
    with pytest.raises(
        ValueError, match="'c' has the category 'w' in the validation part, which the training part has not"
    ):
        data.split("time", validation="2024-01-03", test=None)


def test_a_feature_that_was_never_seen_in_training_is_refused():
    data = from_dataframe(table(y=[np.nan, np.nan, 1.0] * 2), **COLUMNS)
    with pytest.raises(ValueError, match="'y' has no value in the training part"):
        data.split("time", validation="2024-01-03", test=None)


def test_parts_that_are_not_there_are_refused():
    data = from_dataframe(table(), **COLUMNS)
    with pytest.raises(ValueError, match=r"ids must be among \['a', 'b'\], got 'q'"):
        data.select(["a", "q"])
    with pytest.raises(ValueError, match=r"ids must be among \['a', 'b'\], got 3"):
        data.select(3)
    assert data.select("a").ids == ["a"]
    with pytest.raises(ValueError, match="num_frames must be at most 3, the longest, got 4"):
        data.at_least(4)
    with pytest.raises(ValueError, match="every must be at most num_frames, 2"):
        data.windows(2, every=3)
    with pytest.raises(IndexError, match="between 0 and 1, got 2"):
        data[2]
    with pytest.raises(TypeError, match="index must be an integer, got 'a'"):
        data["a"]


# The wide form --------------------------------------------------------------------------------------------------------

WIDE = pd.DataFrame({"id": ["a", "b"], "y0": [1.0, 2.0], "y1": [3.0, 5.0], "c0": [0.0, 1.0]})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"values": "y0"}, TypeError, r"values must be the columns of the steps, or a dictionary"),
        ({"values": None}, TypeError, r"values must be the columns of the steps"),
        ({"covariates": ["c0"]}, TypeError, r"covariates must be a dictionary \{name: columns\} in the wide form"),
        ({"covariates": {"c": ["c0"]}}, ValueError, r"as many columns for each name, one per step, got .*'c': 1"),
        ({"time": [0]}, ValueError, r"time must list the times of the 2 steps"),
        ({"time": "t"}, ValueError, r"time must list the times of the 2 steps in the wide form, got 't'"),
        ({"time": [1, 0]}, ValueError, r"ascend within a sequence"),
        ({"values": {"id": ["y0", "y1"]}}, ValueError, r"'id' is the name of a feature"),
    ],
)
def test_the_wide_form_needs_groups_of_columns(arguments, error, message):
    with pytest.raises(error, match=message):
        from_dataframe(WIDE, **{"sequence": "id", "values": ["y0", "y1"], "form": "wide", **arguments})


def test_a_sequence_in_two_rows_of_the_wide_form_is_refused():
    with pytest.raises(ValueError, match="'a' in two rows"):
        from_dataframe(WIDE.assign(id="a"), "id", values=["y0", "y1"], form="wide")


# Files and arrays -----------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_read_are_refused(tmp_path):
    def message(match, error=ValueError, **arguments):
        with pytest.raises(error, match=match):
            from_folder(tmp_path, **arguments)

    message("holds no .csv", FileNotFoundError)
    (tmp_path / "a.csv").write_text("")
    message("a.csv cannot be read as a table")
    (tmp_path / "a.csv").write_text("y,z\n")
    message("a.csv holds no rows")
    (tmp_path / "a.csv").write_text("y,z\n1,2\n3,x\n")
    message("feature 'z' must hold numbers, got '2' in row 0", TypeError)
    (tmp_path / "a.csv").write_bytes("y,größe\n1,2\n3,4\n".encode("latin1"))
    message("a.csv cannot be read as a table .*'encoding': 'latin1'")
    assert from_folder(tmp_path, csv={"encoding": "latin1"}).features == ("y", "größe")
    (tmp_path / "a.csv").write_text("y;z\n1,5;2\n3,5;4\n")
    assert from_folder(tmp_path, csv={"sep": ";", "decimal": ","}).scaling.centre == (2.5, 3.0)
    (tmp_path / "b.csv").write_text("y;w\n1;2\n")
    message("b.csv must have the columns of a.csv", csv={"sep": ";"})
    (tmp_path / "b.csv").write_text("y;z\n1;2\n")
    (tmp_path / "b.tsv").write_text("y;z\n1;2\n")
    message("b.csv and b.tsv have one name", csv={"sep": ";"})
    with pytest.raises(FileNotFoundError, match="does not exist"):
        from_folder(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="csv must be a dictionary"):
        from_folder(tmp_path, csv=[1])


@pytest.mark.parametrize(
    ("values", "arguments", "error", "message"),
    [
        (table(), {}, TypeError, r"got DataFrame: take zf_pyro.data.from_dataframe"),
        ([], {}, ValueError, r"one sequence at least"),
        (np.zeros((4, 2)), {}, ValueError, r"\(sequence, time, feature\) or a list of arrays, got shape \(4, 2\)"),
        (
            [np.zeros((4, 2)), np.zeros((4, 3))],
            {},
            ValueError,
            r"values\[1\] must have 2 columns as values\[0\], got 3",
        ),
        ([np.zeros((0, 2))], {}, ValueError, r"values\[0\] must be \(time, feature\) with one step at least"),
        ([["a", "b"]], {}, TypeError, r"values\[0\] must hold numbers"),
        ([[1.0, np.inf]], {}, ValueError, r"'x_0' has an infinite value in sequence 0"),
        (
            [[1.0, 2.0]],
            {"covariates": [[1.0]]},
            ValueError,
            r"covariates\[0\] must have the 2 steps .* frames that are NaN",
        ),
        ([[1.0, 2.0]], {"covariates": [[1.0, 2.0]] * 2}, ValueError, r"an array for each of 1 sequences, got 2"),
        ([[1.0, 2.0]], {"static": [1.0, 2.0]}, ValueError, r"static must have a row for each of 1 sequences"),
        ([[1.0, 2.0]], {"times": [[1, 1]]}, ValueError, r"times must occur once"),
        ([[1.0, 2.0]], {"times": [["a", "b"]]}, TypeError, r"times must hold dates or numbers"),
        ([[1.0, 2.0]], {"times": [[0.0, np.nan]]}, ValueError, r"times must be finite"),
        ([[1.0, 2.0]], {"names": ["a", "b"]}, ValueError, r"names must be 1 different names"),
        ([[1.0, 2.0]], {"ids": ["a", "b"]}, ValueError, r"ids must name each of 1 sequences once"),
        ([[1.0, 2.0]] * 2, {"ids": ["a", "a"]}, ValueError, r"ids must name each of 2 sequences once"),
        ([[1.0, 2.0]], {"names": ["c_0"], "covariates": [[1.0, 2.0]]}, ValueError, r"names must differ"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(values, arguments, error, message):
    with pytest.raises(error, match=message):
        from_arrays(values, **arguments)


def test_folders_of_other_data_are_refused(tmp_path):
    data = from_dataframe(table(), **COLUMNS)
    data.save(tmp_path / "out")
    with pytest.raises(FileExistsError, match="holds prepared data"):
        data.save(tmp_path / "out")
    data.save(tmp_path / "out", overwrite=True)
    with pytest.raises(ValueError, match=r"holds series with names and times: open it by zf_pyro.data.load_series"):
        Sequences(tmp_path / "out", "train")
    record = tmp_path / "out" / "record.json"
    text = record.read_text()
    record.write_text(text.replace('"series"', '"speech"'))
    with pytest.raises(ValueError, match="holds 'speech', not series"):
        load_series(tmp_path / "out")
    record.write_text(text.replace('"layout"', '"plan"'))
    with pytest.raises(ValueError, match=r"cannot be used .*'layout'"):
        load_series(tmp_path / "out")
    with pytest.raises(ValueError, match="parts must be train and, if there are, validation and test, got"):
        save_series(tmp_path / "more", {"dev": data})


def test_identifiers_that_no_record_holds_are_refused(tmp_path):
    data = from_dataframe(table(id=days(1, 1, 1, 2, 2, 2)), **COLUMNS)
    with pytest.raises(TypeError, match="identifiers must be text or numbers to be saved"):
        data.save(tmp_path / "out")


def test_items_of_other_data_are_not_collated():
    with pytest.raises(TypeError, match=r"item 0 must be a zf_pyro.data.SeriesItem, got Tensor"):
        collate_series([torch.zeros(3, 2)])
    with pytest.raises(ValueError, match="at least one sequence"):
        collate_series([])
    with pytest.raises(ValueError, match="items must all have covariates, or none"):
        collate_series(
            [SeriesItem(torch.zeros(3, 2), torch.zeros(3, 1), None), SeriesItem(torch.zeros(3, 2), None, None)]
        )
