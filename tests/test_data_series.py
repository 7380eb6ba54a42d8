"""Series of tables and arrays: values, names, times and gaps come out as they went in, and nothing leaks."""

import json
import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from zf_pyro.data import (
    SeriesBatch,
    continued,
    empty_like,
    from_arrays,
    from_dataframe,
    from_folder,
    joined,
    load_series,
    require_horizon,
    save_series,
)

COLUMNS = {"sequence": "site", "time": "day", "values": ["flow", "level"]}
KNOWN = {**COLUMNS, "covariates": ["rain", "weekday", "open"], "static": "region"}


def table(lengths=(6, 4, 5), *, seed=0, gap=True):
    """Daily rows of three sites in two regions; flow is missing once."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "site": site,
            "day": pd.Timestamp("2024-01-01") + pd.Timedelta(days=step),
            "flow": 100 + rng.normal(),
            "level": float(step) ** 2,
            "rain": rng.gamma(2.0),
            "weekday": ("mon", "tue", "wed")[step % 3],
            "open": step % 2 == 0,
            "region": "north" if site != "b" else "south",
        }
        for site, length in zip("abc", lengths, strict=True)
        for step in range(length)
    ]
    frame = pd.DataFrame(rows)
    if gap:
        frame.loc[2, "flow"] = np.nan
    return frame


def original(data, index=0):
    """Frames of a sequence in original units, by way of its item."""
    item = data[index]
    values = data.inverse(item.x)
    return values if item.observed is None else values.where(item.observed, torch.nan)


def assert_same(one, other):
    for name, a, b in zip(SeriesBatch._fields, one.batch(), other.batch(), strict=True):
        assert (a is None and b is None) or torch.equal(a, b), name


# Long form ------------------------------------------------------------------------------------------------------------


def test_a_batch_has_frames_lengths_covariates_and_what_was_seen():
    data = from_dataframe(table(), **KNOWN)
    x, lengths, covariates, observed = data.batch()
    assert (x.shape, x.dtype) == ((3, 6, 2), torch.float32)
    assert lengths.tolist() == [6, 4, 5]
    assert covariates.shape == (3, 6, 7)
    assert data.covariate_names == [
        *("rain", "weekday=mon", "weekday=tue", "weekday=wed", "open"),
        *("region=north", "region=south"),
    ]
    assert (data.frame_dim, data.covariate_dim, data.features) == (2, 7, ("flow", "level"))
    real = torch.arange(6) < lengths[:, None]
    missing = torch.zeros(3, 6, 2, dtype=torch.bool)
    missing[0, 2, 0] = True
    assert torch.equal(observed, real[:, :, None] & ~missing)
    assert not x[~real].any()
    assert not covariates[~real].any()


def test_values_come_out_as_they_went_in():
    frame = table()
    data = from_dataframe(frame, **KNOWN)
    for index, (site, rows) in enumerate(frame.groupby("site")):
        expected = torch.from_numpy(rows[["flow", "level"]].to_numpy(copy=True))
        torch.testing.assert_close(original(data, index), expected, rtol=0, atol=1e-5, equal_nan=True)
        assert data.ids[index] == site
        assert (data.times(index) == rows["day"].to_numpy()).all()


def test_covariates_are_numbers_flags_and_a_column_per_category():
    frame = table()
    covariates = from_dataframe(frame, **KNOWN)[1].covariates
    rows, rain = frame[frame.site == "b"], frame["rain"]
    expected = np.column_stack(
        [
            (rows["rain"] - rain.mean()) / rain.std(ddof=0),
            *(rows["weekday"] == day for day in ("mon", "tue", "wed")),
            rows["open"],
            np.zeros(4),
            np.ones(4),
        ]
    )
    torch.testing.assert_close(covariates.double(), torch.from_numpy(expected.astype(float)), rtol=0, atol=1e-6)


def test_without_gaps_and_covariates_there_are_none():
    batch = from_dataframe(table(gap=False), **COLUMNS).batch()
    assert (batch.covariates, batch.observed) == (None, None)


def test_rows_of_sequences_may_alternate():
    frame = table()
    mixed = frame.sort_values(["day", "site"], ignore_index=True)
    assert_same(from_dataframe(mixed, **KNOWN), from_dataframe(frame, **KNOWN))


def test_levels_of_the_index_are_columns():
    frame = table()
    assert_same(from_dataframe(frame.set_index(["site", "day"]), **KNOWN), from_dataframe(frame, **KNOWN))
    one = frame[frame.site == "a"]
    unnamed = one.set_index(pd.DatetimeIndex(one["day"].to_numpy()))[["flow", "level"]]
    assert (from_dataframe(unnamed, time="index").times(0) == one["day"].to_numpy()).all()


def test_all_other_columns_are_values_where_none_are_named():
    data = from_dataframe(table()[["site", "day", "flow", "level"]], "site", "day")
    assert data.features == ("flow", "level")


def test_without_a_sequence_column_there_is_one_sequence_and_without_times_steps_count():
    data = from_dataframe(pd.DataFrame({"y": [3.0, 1.0, 2.0]}))
    assert data.ids == [0]
    assert data.times(0).tolist() == [0, 1, 2]
    assert data.inverse(data[0].x).flatten().tolist() == pytest.approx([3.0, 1.0, 2.0])


@pytest.mark.parametrize("kind", ["Int64", "boolean", "Float32", "object"])
def test_nullable_numbers_and_objects_are_numbers_with_gaps(kind):
    column = pd.Series([1, None, 0, 1], dtype=kind)
    data = from_dataframe(pd.DataFrame({"y": column}), scaling="none")
    assert torch.equal(original(data).flatten().nan_to_num(9.0), torch.tensor([1.0, 9.0, 0.0, 1.0]).double())


@pytest.mark.parametrize(
    "times",
    [
        pd.Series([5, 7, 100]),
        pd.Series([0.5, 0.75, 2.0]),
        pd.to_timedelta(pd.Series([0, 1, 90]), unit="s"),
        pd.to_datetime(pd.Series(["2024-03-30", "2024-03-31", "2024-04-01"])).dt.tz_localize("Europe/Berlin"),
        pd.Series(pd.period_range("2024-01", periods=3, freq="M")),
        pd.Series(["2024-03-30", "2024-03-31T12:00", "2024-04-01"]),
    ],
    ids=["integers", "floats", "durations", "zone", "periods", "text"],
)
def test_times_of_every_kind_come_out_in_a_table(times):
    data = from_dataframe(pd.DataFrame({"t": times, "y": [1.0, 2.0, 4.0]}), time="t")
    expected = times
    if isinstance(times.dtype, pd.PeriodDtype):
        expected = times.dt.to_timestamp()
    elif isinstance(times[0], str):
        expected = pd.to_datetime(times, format="ISO8601")
    found = data.to_pandas(data.batch().x)["t"]
    assert list(found) == list(expected)
    assert getattr(found.dt, "tz", None) == getattr(expected.dt, "tz", None) if hasattr(expected, "dt") else True


def test_static_covariates_are_repeated():
    data = from_dataframe(table(), **COLUMNS, static=["region"])
    assert data[1].covariates.tolist() == [[0.0, 1.0]] * 4


def test_the_time_since_the_last_frame_is_a_covariate_on_request():
    frame = table().drop(index=[1, 3])
    data = from_dataframe(frame, **COLUMNS, time_gap=True)
    assert data.covariate_names == ["time_gap"]
    assert (data.steps(0).covariates[:, 0] / 86_400).tolist() == [0, 2, 2, 1]


# Regular grids --------------------------------------------------------------------------------------------------------


def test_missing_rows_of_a_grid_are_frames_without_values():
    frame = table().drop(index=[1, 3, 4])
    data = from_dataframe(frame, **COLUMNS, static="region", frequency="D")
    assert data.lengths.tolist() == [6, 4, 5]
    assert data[0].observed.any(1).tolist() == [True, False, True, False, False, True]
    assert (data.times(0) == pd.date_range("2024-01-01", periods=6).to_numpy()).all()
    assert data[0].covariates.tolist() == [[1.0, 0.0]] * 6


def test_covariates_of_inserted_rows_repeat_the_last_one_on_request():
    frame = table().drop(index=[1, 3, 4])
    data = from_dataframe(frame, **KNOWN, frequency="D", fill_covariates="forward")
    rain = frame["rain"].tolist()
    assert data.steps(0).covariates[:, 0].tolist() == [rain[0], rain[0], *[rain[1]] * 3, rain[2]]


def test_days_follow_the_clock_of_their_zone():
    days = pd.date_range("2024-03-29", "2024-04-02", freq="D", tz="Europe/Berlin")  # 31 March has 23 hours
    frame = pd.DataFrame({"t": days, "y": range(5)}).drop(index=2)
    data = from_dataframe(frame, time="t", frequency="D")
    assert list(data.to_pandas(data.batch().x)["t"]) == list(days)


@pytest.mark.parametrize(
    ("times", "frequency", "expected"),
    [
        ([0, 10, 40], 10, [0, 10, 20, 30, 40]),
        ([0.0, 0.1, 0.1 + 0.2, 0.5], 0.1, [0.0, 0.1, 0.2, 0.1 + 0.2, 0.4, 0.5]),
        (pd.to_timedelta([0, 60, 180], unit="s"), "min", pd.to_timedelta([0, 60, 120, 180], unit="s")),
        (pd.to_datetime(["2024-01-01", "2024-03-01"]), "MS", pd.date_range("2024-01-01", periods=3, freq="MS")),
    ],
)
def test_grids_of_numbers_durations_and_months(times, frequency, expected):
    data = from_dataframe(pd.DataFrame({"t": times, "y": np.arange(len(times)) ** 2.0}), time="t", frequency=frequency)
    assert data.times(0).tolist() == pytest.approx(np.asarray(expected).astype(data.times(0).dtype).tolist())


@pytest.mark.parametrize("frequency", ["D", "h", "7min", "s"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_a_grid_of_many_steps_reaches_from_the_first_to_the_last(frequency, zone):
    times = pd.date_range("2024-01-01", periods=777, freq=frequency, tz=zone)
    for count in (1, 2, 120, 365, 777):
        frame = pd.DataFrame({"t": times[:count], "y": np.arange(count)})
        data = from_dataframe(frame, time="t", frequency=frequency)
        assert list(data.layout.axis.index(data.steps(0).times)) == list(times[:count])
        assert not data.has_gaps


# Scaling --------------------------------------------------------------------------------------------------------------


def test_standard_scaling_has_mean_zero_and_deviation_one_of_what_was_seen():
    data = from_dataframe(table(), **COLUMNS)
    x, _, _, observed = data.batch()
    for feature in range(2):
        seen = x[..., feature][observed[..., feature]].double()
        assert seen.mean().item() == pytest.approx(0.0, abs=1e-6)
        assert seen.std(correction=0).item() == pytest.approx(1.0, abs=1e-6)


def test_robust_scaling_is_by_median_and_interquartile_range():
    values = np.array([1.0, 2.0, 3.0, 4.0, 1e6])
    scaling = from_dataframe(pd.DataFrame({"y": values}), scaling="robust").scaling
    assert (scaling.centre, scaling.scale) == ((3.0,), (pytest.approx(2 / 1.3489795003921634),))


def test_each_column_may_have_its_own_scaling():
    data = from_dataframe(table(), **KNOWN, scaling={"level": "none", "rain": "robust"})
    assert data.scaling.kinds == ("standard", "none")
    assert data.covariate_scaling.kinds == ("robust", "none", "none", "none")


def test_missing_elements_stand_at_a_value_in_the_support():
    frame = pd.DataFrame({"count": [3.0, np.nan, 7.0, 8.0, 100.0], "y": [np.nan, 1.0, 2.0, 6.0, 3.0]})
    x = from_dataframe(frame, scaling={"count": "none"})[0].x
    assert x[1, 0].item() == 7.0  # the lower median, a count
    assert x[0, 1].item() == 0.0  # the mean


def test_a_constant_feature_is_centred():
    data = from_dataframe(pd.DataFrame({"y": [5.0, 5.0, 5.0], "z": [1.0, 2.0, 3.0]}))
    assert data[0].x[:, 0].tolist() == [0.0, 0.0, 0.0]
    assert data.inverse(data[0].x)[:, 0].tolist() == [5.0, 5.0, 5.0]


def test_large_offsets_keep_their_digits():
    values = 1e9 + np.arange(5) / 64
    data = from_dataframe(pd.DataFrame({"y": values}))
    assert np.abs(data.inverse(data[0].x.numpy())[:, 0] - values).max() < 1e-7 * 4


def test_flags_are_not_scaled_unless_named():
    frame = pd.DataFrame({"on": [True, False, True, True]})
    assert from_dataframe(frame)[0].x.flatten().tolist() == [1.0, 0.0, 1.0, 1.0]
    gappy = from_dataframe(pd.DataFrame({"on": [True, None, False]}))[0]
    assert (gappy.x.flatten().tolist(), gappy.observed.flatten().tolist()) == ([1.0, 0.0, 0.0], [True, False, True])
    assert from_dataframe(frame, scaling={"on": "standard"})[0].x.mean().item() == pytest.approx(0.0, abs=1e-6)


def test_deviations_are_scaled_back_without_a_location():
    data = from_dataframe(table(), **COLUMNS)
    widths = data.inverse(torch.ones(4, 2), "deviations")
    assert torch.equal(widths[0], torch.tensor(data.scaling.scale, dtype=torch.float64))


# Splits ---------------------------------------------------------------------------------------------------------------


def many(count=20, length=10, *, seed=1):
    rng = np.random.default_rng(seed)
    index = np.arange(count).repeat(length)
    step = np.tile(np.arange(length), count)
    return pd.DataFrame({"id": index, "t": step, "y": rng.normal(size=count * length) + step})


def test_a_split_by_sequence_holds_every_sequence_once():
    data = from_dataframe(many(), "id", "t")
    sets = data.split(validation=0.2, test=0.1, seed=3)
    assert [len(part) for part in sets] == [14, 4, 2]
    assert sorted(id_ for part in sets for id_ in part.ids) == [*range(20)]
    assert data.split(validation=0.2, test=0.1, seed=3).test.ids == sets.test.ids


def test_the_scaling_is_that_of_the_training_part_alone():
    frame = many()
    before = from_dataframe(frame, "id", "t").split("time", validation=0.2, test=0.2)
    frame.loc[frame["t"] >= 6, "y"] = 1e6  # everything after the training part
    after = from_dataframe(frame, "id", "t").split("time", validation=0.2, test=0.2)
    train = frame.loc[frame["t"] < 6, "y"]
    assert before.train.scaling == after.train.scaling == after.validation.scaling == after.test.scaling
    assert after.train.scaling.centre == pytest.approx((train.mean(),))
    assert after.train.scaling.scale == pytest.approx((train.std(ddof=0),))
    assert_same(before.train, after.train)


@pytest.mark.parametrize("cuts", [{"validation": 0.2, "test": 0.2}, {"validation": 6, "test": 8}])
def test_a_split_by_time_cuts_all_sequences_at_the_same_times(cuts):
    sets = from_dataframe(many(), "id", "t").split("time", **cuts)
    assert [set(np.concatenate([part.times(i) for i in range(20)]).tolist()) for part in sets] == [
        {0, 1, 2, 3, 4, 5},
        {6, 7},
        {8, 9},
    ]


def test_a_split_at_dates_takes_their_text_in_the_zone_of_the_times():
    days = pd.date_range("2024-01-01", periods=6, freq="D", tz="Asia/Tokyo")
    data = from_dataframe(pd.DataFrame({"t": days, "y": range(6)}), time="t")
    sets = data.split("time", validation="2024-01-04", test=days[4])
    assert [part.lengths.tolist() for part in sets] == [[3], [1], [2]]


def test_sequences_that_have_ended_are_in_no_later_part_and_no_step_is_lost():
    frame = many(3, 10)
    frame = frame[(frame["id"] > 0) | (frame["t"] < 4)]
    sets = from_dataframe(frame, "id", "t").split("time", validation=6, test=8)
    assert [part.ids for part in sets] == [[0, 1, 2], [1, 2], [1, 2]]
    assert sum(int(part.lengths.sum()) for part in sets) == len(frame)


def test_context_frames_precede_later_parts_and_change_no_scaling():
    data = from_dataframe(many(), "id", "t")
    plain, given = (data.split("time", validation=6, test=8, context=context) for context in (0, 3))
    assert given.test.times(0).tolist() == [5, 6, 7, 8, 9]
    assert given.train.scaling == plain.train.scaling
    assert torch.equal(given.test[4].x[3:], plain.test[4].x)


def test_parts_may_be_missing():
    whole = from_dataframe(many(), "id", "t").split("time", validation=None, test=None)
    assert (len(whole.train), whole.validation, whole.test) == (20, None, None)
    sets = from_dataframe(many(), "id", "t").split(validation=0.1, test=None)
    assert (len(sets.train), len(sets.validation), sets.test) == (18, 2, None)


def test_files_like_earlier_data_leave_its_columns_alone(tmp_path):
    table().drop(columns="site")[:6].to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "readme.md").write_text("")
    data = from_folder(tmp_path, time="day", values="flow")
    (tmp_path / "readme.md").unlink()
    again = from_folder(tmp_path, like=data)
    assert (data.layout.columns["left_out"], again.layout.columns["left_out"]) == ([["readme.md", "no table"]], [])
    assert_same(again, data)


def test_new_data_take_columns_categories_and_scaling_of_earlier_data():
    data = from_dataframe(table(), **KNOWN)
    new = from_dataframe(table(seed=5)[4:9], like=data)
    assert (new.scaling, new.layout, new.covariate_scaling) == (data.scaling, data.layout, data.covariate_scaling)
    again = from_dataframe(table().query("site == 'b'"), like=data)
    assert torch.equal(again[0].x, data[1].x)
    assert torch.equal(again[0].covariates, data[1].covariates)


# Parts and batches ----------------------------------------------------------------------------------------------------


def test_windows_leave_no_frame_out():
    data = from_dataframe(many(2, 7), "id", "t")
    for size, every, firsts in ((3, None, [0, 3, 6]), (3, 2, [0, 2, 4]), (7, 1, [0]), (9, 4, [0])):
        windows = data.windows(size, every=every)
        assert [windows.times(i)[0] for i in range(len(windows) // 2)] == firsts
        assert set(np.concatenate([windows.times(i) for i in range(len(windows))])) == set(range(7))
        assert windows.ids == [0] * len(firsts) + [1] * len(firsts)
    assert torch.equal(data.windows(3)[4].x, data[1].x[3:6])


def test_parts_are_selected_by_identifier_and_length():
    data = from_dataframe(table(), **COLUMNS)
    assert data.select(["c", "a"]).ids == ["a", "c"]
    assert data.at_least(5).ids == ["a", "c"]


def test_batches_hold_every_sequence_once_and_continue_in_the_middle():
    data = from_dataframe(many(), "id", "t", time_gap=True)
    loader = data.batches(3, seed=4)
    whole = list(loader)
    assert all(isinstance(batch, SeriesBatch) for batch in whole)
    assert sorted(torch.cat([batch.x[:, 0, 0] for batch in whole]).tolist()) == sorted(data.batch().x[:, 0, 0].tolist())
    runner = iter(loader)
    for _ in range(3):
        next(runner)
    other = data.batches(3, seed=4)
    other.load_state_dict(loader.state_dict())
    for one, two in zip(list(other), whole[3:], strict=True):
        assert torch.equal(one.x, two.x)


def test_workers_and_pickles_give_the_same_batches(tmp_path):
    save_series(tmp_path / "out", from_dataframe(table(), **KNOWN))
    data = load_series(tmp_path / "out").train
    expected = list(data.batches(2))
    for loader in (data.batches(2, num_workers=1), pickle.loads(pickle.dumps(data)).batches(2)):
        for one, two in zip(loader, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


# Folders --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times",
    [
        pd.date_range("2024-01-01", periods=4, freq="s").as_unit("ns") + pd.Timedelta(1, "ns"),
        pd.date_range("1890-01-01", periods=4, freq="D", tz="America/New_York"),
        np.array([-5, 0, 2**53 + 1, 2**62 + 1]),
        np.array([0.1, 0.1 + 0.2, 1e300, 1.7e308]),
    ],
)
def test_saved_data_are_the_same_memory_mapped(tmp_path, times):
    frame = pd.DataFrame({"id": "x", "t": times, "y": [1.0, np.nan, 3.0, 1e9], "w": list("abca")})
    data = from_dataframe(frame, "id", "t", "y", "w")
    data.save(tmp_path / "out")
    found = load_series(tmp_path / "out").train
    assert (found.layout, found.scaling, found.ids) == (data.layout, data.scaling, data.ids)
    assert (found.times(0) == data.times(0)).all()
    assert_same(found, data)
    assert_same(from_dataframe(frame, like=found), data)


def test_three_parts_are_saved_together(tmp_path):
    sets = from_dataframe(many(), "id", "t").split("time", validation=0.2, test=0.2)
    record = save_series(tmp_path / "out", sets)
    for part, found in zip(sets, load_series(tmp_path / "out"), strict=True):
        assert_same(found, part)
        assert found.record == record


def test_the_record_tells_data_apart():
    frame = table()
    records = [from_dataframe(frame, **KNOWN).record for _ in range(2)]
    assert records[0] == records[1]
    frame.loc[5, "level"] += 1e-9
    assert from_dataframe(frame, **KNOWN).record.splits != records[0].splits


def test_reading_a_sequence_touches_no_other(tmp_path):
    from_dataframe(many(400, 50), "id", "t").save(tmp_path / "out")
    data = load_series(tmp_path / "out").train
    assert data.rows._values is None
    data[7]
    assert isinstance(data.rows._values, np.memmap)


# Other tables ---------------------------------------------------------------------------------------------------------


def test_the_wide_form_has_a_column_per_step():
    wide = pd.DataFrame(
        {"id": ["p", "q"], "y0": [1.0, 2.0], "y1": [np.nan, 5.0], "y2": [3.0, np.nan], "group": ["u", "v"]}
    )
    days = pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-04"])
    data = from_dataframe(wide, "id", days, ["y0", "y1", "y2"], static="group", form="wide")
    assert (data.lengths.tolist(), data.ids, data.features) == ([3, 2], ["p", "q"], ("value",))
    assert original(data, 0).flatten().tolist() == pytest.approx([1.0, math.nan, 3.0], nan_ok=True)
    assert original(data, 1).flatten().tolist() == pytest.approx([2.0, 5.0])
    assert (data.times(0) == days.to_numpy()).all()
    assert data[1].covariates.tolist() == [[0.0, 1.0]] * 2
    assert_same(from_dataframe(wide, like=data), data)


def test_the_wide_form_of_several_features_equals_the_long_one():
    frame = table((4, 4, 4), gap=False)
    wide = frame.pivot(index="site", columns="day", values=["flow", "level", "rain"])
    names = {name: [f"{name}_{i}" for i in range(4)] for name in ("flow", "level", "rain")}
    wide.columns = [column for group in names.values() for column in group]
    rain = {"rain": names.pop("rain")}
    found = from_dataframe(wide, "site", sorted(set(frame["day"])), names, rain, form="wide")
    assert_same(found, from_dataframe(frame, "site", "day", ["flow", "level"], "rain"))
    assert found.ids == ["a", "b", "c"]


def test_future_covariates_reach_beyond_the_last_value():
    wide = pd.DataFrame({"y0": [1.0, 2.0], "y1": [3.0, np.nan], "c0": [0.0, 0.0], "c1": [1.0, 1.0]})
    data = from_dataframe(wide, values={"y": ["y0", "y1"]}, covariates={"c": ["c0", "c1"]}, form="wide")
    assert data.lengths.tolist() == [2, 2]
    assert data[1].observed.flatten().tolist() == [True, False]


def test_an_xarray_dataset_has_its_dimensions_as_columns():
    values = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, np.nan]])
    dataset = xr.Dataset({"y": (("site", "t"), values), "z": (("site",), [10.0, 30.0])}, {"site": ["m", "n"]})
    data = from_dataframe(dataset, "site", "t", "y", static="z")
    assert (data.ids, data.lengths.tolist()) == (["m", "n"], [3, 2])
    assert data.steps(1).covariates.tolist() == [[30.0], [30.0]]
    assert_same(from_dataframe(dataset["y"], "site", "t"), from_dataframe(dataset, "site", "t", "y"))


def test_a_polars_table_equals_one_of_pandas():
    polars = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    frame = table()
    assert_same(from_dataframe(polars.from_pandas(frame), **KNOWN), from_dataframe(frame, **KNOWN))


def test_columns_of_arrow_are_those_of_pandas():
    pyarrow = pytest.importorskip("pyarrow")
    frame = table()
    arrow = frame.convert_dtypes(dtype_backend="pyarrow")
    assert all(isinstance(dtype, pd.ArrowDtype) for dtype in arrow.dtypes)
    assert_same(from_dataframe(arrow, **KNOWN), from_dataframe(frame, **KNOWN))
    assert_same(from_dataframe(pyarrow.Table.from_pandas(frame), **KNOWN), from_dataframe(frame, **KNOWN))


class Interchange:
    """A table known by the dataframe interchange protocol alone."""

    def __init__(self, frame):
        self.frame = frame

    def __dataframe__(self, nan_as_null=False, allow_copy=True):
        return self.frame.__dataframe__(nan_as_null, allow_copy)


class Convertible:
    """A table that can be converted to one of pandas."""

    def __init__(self, frame):
        self.frame = frame

    def to_pandas(self):
        return self.frame


def test_tables_of_other_libraries_are_converted():
    frame = table()
    assert_same(from_dataframe(Convertible(frame), **KNOWN), from_dataframe(frame, **KNOWN))


@pytest.mark.skipif(not hasattr(pd.DataFrame, "__dataframe__"), reason="this pandas has no interchange protocol")
@pytest.mark.filterwarnings("ignore:The Dataframe Interchange Protocol is deprecated")
def test_tables_that_have_the_interchange_protocol_alone_are_read():
    frame = table()[["site", "flow", "level"]]
    assert_same(from_dataframe(Interchange(frame), "site"), from_dataframe(frame, "site"))


def test_a_folder_of_files_has_a_sequence_per_file(tmp_path):
    frame = table()
    for site, rows in frame.groupby("site"):
        rows.drop(columns="site").to_csv(tmp_path / f"{site}.csv", index=False)
    (tmp_path / "notes.txt").write_text("made by hand")
    data = from_folder(tmp_path, time="day", values=["flow", "level"])
    assert_same(data, from_dataframe(frame, **COLUMNS))
    assert data.ids == ["a", "b", "c"]
    assert data.layout.columns["left_out"] == [["notes.txt", "no table"]]
    assert data.save(tmp_path / "out").left_out == [["notes.txt", "no table"]]


def test_a_folder_of_files_with_a_sequence_column_is_one_table(tmp_path):
    frame = table()
    (tmp_path / "part").mkdir()
    frame[:8].to_csv(tmp_path / "one.csv.gz", index=False)
    frame[8:].to_csv(tmp_path / "part" / "two.csv", index=False)
    assert_same(from_folder(tmp_path, **KNOWN), from_dataframe(frame, **KNOWN))


def test_new_files_are_read_like_the_earlier_ones(tmp_path):
    csv = {"sep": ";", "decimal": ",", "dtype": {"site": "str"}}
    frame = table().assign(site=lambda rows: rows["site"].map({"a": "01", "b": "02", "c": "10"}))
    frame.to_csv(tmp_path / "all.csv", index=False, sep=";", decimal=",")
    data = from_folder(tmp_path / "all.csv", **KNOWN, csv=csv)
    assert data.ids == ["01", "02", "10"]
    save_series(tmp_path / "out", data)
    again = from_folder(tmp_path / "all.csv", like=load_series(tmp_path / "out").train)
    assert again.ids == data.ids
    assert_same(again, data)
    with pytest.raises(TypeError, match="csv must hold text, numbers, lists and dictionaries"):
        from_folder(tmp_path / "all.csv", **KNOWN, csv={**csv, "dtype": {"site": str}})


def test_parquet_files_are_read(tmp_path):
    pytest.importorskip("pyarrow")
    frame = table()
    frame.set_index(["site", "day"]).to_parquet(tmp_path / "all.parquet")
    assert_same(from_folder(tmp_path / "all.parquet", **KNOWN), from_dataframe(frame, **KNOWN))


def test_arrays_need_no_table():
    frame = table()
    parts = [rows for _, rows in frame.groupby("site")]
    found = from_arrays(
        [rows[["flow", "level"]].to_numpy() for rows in parts],
        covariates=[torch.from_numpy(rows["rain"].to_numpy(copy=True)) for rows in parts],
        static=[1.0, 2.0, 3.0],
        times=[rows["day"].to_numpy() for rows in parts],
        names=["flow", "level"],
        covariate_names="rain",
        ids=["a", "b", "c"],
    )
    frame["s_0"] = frame["site"].map({"a": 1.0, "b": 2.0, "c": 3.0})
    expected = from_dataframe(frame, **COLUMNS, covariates="rain", static="s_0")
    assert_same(found, expected)
    assert (found.ids, found.covariate_names) == (expected.ids, expected.covariate_names)


def test_masked_elements_of_arrays_are_gaps():
    masked = np.ma.array([[1.0, 2.0], [3.0, 4.0]], mask=[[False, True], [False, False]])
    data = from_arrays([masked, np.array([[5.0, 6.0]])])
    assert data[0].observed.tolist() == [[True, False], [True, True]]
    assert data.features == ("x_0", "x_1")


# Names ----------------------------------------------------------------------------------------------------------------


def test_arrays_come_out_with_identifiers_times_and_units():
    frame = table()
    data = from_dataframe(frame, **KNOWN)
    found = data.to_xarray(data.batch().x)
    assert found.dims == ("sequence", "step", "feature")
    expected = frame.set_index(["site", "day"])
    for site, day in expected.index:
        steps = found.sel(sequence=site)
        value = steps.isel(step=int(np.argmax(steps["time"].values == np.datetime64(day)))).sel(feature="level").item()
        assert value == pytest.approx(expected.loc[(site, day), "level"], abs=1e-5)
    assert int(found.notnull().all("feature").sum()) == len(frame)
    assert found.sel(sequence="b")["time"].isnull().values.tolist() == [False] * 4 + [True] * 2


def test_a_table_of_values_is_the_one_that_went_in():
    frame = table(gap=False)
    data = from_dataframe(frame, **COLUMNS)
    found = data.to_pandas(data.batch().x)
    pd.testing.assert_frame_equal(found, frame[found.columns.tolist()], atol=1e-5, check_dtype=False)


@pytest.mark.parametrize("indices", [None, [2, 0]])
def test_forecasts_have_the_times_after_the_end(indices):
    frame = table()
    data = from_dataframe(frame, **COLUMNS, frequency="D")
    chosen = [0, 1, 2] if indices is None else indices
    samples = torch.randn(5, len(chosen), 2, 2)
    found = data.to_xarray(samples, future=True, indices=indices)
    assert found["step"].values.tolist() == [1, 2]
    assert found["sequence"].values.tolist() == ["abc"[i] for i in chosen]
    for row, i in enumerate(chosen):
        last = frame.loc[frame.site == "abc"[i], "day"].max()
        assert found["time"].values[row].tolist() == [(last + pd.Timedelta(days=k)).value for k in (1, 2)]
    assert torch.equal(torch.from_numpy(found.values), data.inverse(samples))
    rows = data.to_pandas(samples, future=True, indices=indices).set_index(["site", "day", "sample"])
    day = frame.loc[frame.site == "abc"[chosen[1]], "day"].max() + pd.Timedelta(days=2)
    assert rows.loc[("abc"[chosen[1]], day, 3), "level"] == data.inverse(samples)[3, 1, 1, 1].item()


def test_forecasts_without_a_frequency_count_steps():
    data = from_dataframe(table(), **COLUMNS)
    found = data.to_xarray(torch.zeros(3, 2, 2), future=True)
    assert "time" not in found.coords
    assert data.to_pandas(torch.zeros(3, 2, 2), future=True)["step"].tolist() == [1, 2] * 3


def test_scores_per_step_keep_their_units_and_widths_lose_only_the_scale():
    data = from_dataframe(table(), **COLUMNS)
    scores = torch.arange(18.0).view(3, 6)
    assert data.to_xarray(scores).sel(sequence="a").values.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert data.to_pandas(scores, name="score")["score"].tolist()[6:10] == [6.0, 7.0, 8.0, 9.0]
    widths = data.to_xarray(torch.ones(3, 6, 2), units="deviations")
    assert widths.sel(sequence="a", feature="level").values[0] == data.scaling.scale[1]


def test_values_of_half_precision_come_out():
    data = from_dataframe(table(), **COLUMNS)
    x = data.batch(torch.tensor([1, 0])).x.bfloat16()
    assert torch.equal(data.inverse(x), data.inverse(x.double()))
    assert data.to_xarray(x, indices=[1, 0])["sequence"].values.tolist() == ["b", "a"]


def test_coords_name_sequences_and_features():
    assert from_dataframe(table(), **COLUMNS).coords == {"sequence": ["a", "b", "c"], "feature": ["flow", "level"]}


def test_dimensions_may_have_any_order_and_further_names():
    data = from_dataframe(table(), **COLUMNS)
    x = data.batch().x
    plain = data.to_xarray(x)
    turned = data.to_xarray(
        x.permute(2, 1, 0)[..., None].expand(-1, -1, -1, 4), ("feature", "step", "sequence", "level")
    )
    xr.testing.assert_equal(turned.isel(level=2).transpose(*plain.dims), plain)


def test_covariates_that_end_before_the_horizon_are_refused():
    require_horizon(torch.zeros(2, 7, 3), torch.tensor([5, 3]), 2)
    with pytest.raises(ValueError, match="must reach the end of the forecast, 8 steps for sequence 0 with 5 frames"):
        require_horizon(torch.zeros(2, 7, 3), torch.tensor([5, 3]), 3)


# Parts joined, and steps that follow ----------------------------------------------------------------------------------


def shops():
    """Two shops over ten days, with a price and a kind."""
    days = pd.date_range("2024-01-01", periods=10, freq="D")
    tables = [
        pd.DataFrame({"shop": f"s{i}", "day": days, "sold": np.arange(10.0) + i, "price": 0.5 * i, "kind": "ab"[i]})
        for i in range(2)
    ]
    return from_dataframe(pd.concat(tables), "shop", "day", "sold", "price", "kind", frequency="D")


def test_parts_of_a_split_by_time_join_to_whole_sequences():
    series = shops()
    sets = series.split("time", validation=0.2, test=0.2, context=2)
    whole = joined(sets)
    assert whole.ids == series.ids
    assert whole.scaling == sets.train.scaling
    for index in range(2):
        assert all(np.array_equal(*pair) for pair in zip(whole.steps(index), series.steps(index), strict=True))


def test_sequences_go_on_with_the_covariates_of_a_table():
    series = shops()
    days = pd.date_range("2024-01-10", periods=5, freq="D")
    future = pd.concat([pd.DataFrame({"shop": f"s{i}", "day": days, "price": i + np.arange(5.0)}) for i in (1, 0)])
    found = continued(series, 3, future)
    assert found.lengths.tolist() == [13, 13]
    assert np.isnan(found.steps(1).values[10:]).all()
    assert found.steps(1).covariates[10:].tolist() == [[2.0, 1.0], [3.0, 1.0], [4.0, 1.0]]  # rows after the end alone
    assert str(found.times(0)[-1])[:10] == "2024-01-13"
    assert np.array_equal(found.steps(0, 0, 10).values, series.steps(0).values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: None, r"future must be a table of the covariates \['price'\]"),
        (lambda table: table.drop(columns="price"), "future must have a column 'price'"),
        (
            lambda table: table[table.shop == "s0"],
            "future must hold the 3 steps after sequence 's1', which ends at day",
        ),
        (
            lambda table: table[table.day != "2024-01-11"],
            "future must hold step 1 after sequence 's0' at day 2024-01-11",
        ),
        (lambda table: table.assign(price=np.nan), "covariate 'price' must be known at every step"),
    ],
)
def test_covariates_that_do_not_reach_the_horizon_are_refused(change, message):
    days = pd.date_range("2024-01-11", periods=4, freq="D")
    future = pd.concat([pd.DataFrame({"shop": f"s{i}", "day": days, "price": 1.0}) for i in (0, 1)])
    with pytest.raises(ValueError, match=message):
        continued(shops(), 3, change(future))


def test_static_covariates_and_gaps_of_time_are_known_without_a_table():
    table = pd.DataFrame({"day": [0, 1, 4], "sold": [1.0, 2.0, 3.0], "kind": "a"})
    series = from_dataframe(table, time="day", values="sold", static="kind", time_gap=True, frequency=1)
    found = continued(series, 2)
    assert found.steps(0).times.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert found.steps(0).covariates[-2:].tolist() == [[0.0, 1.0], [0.0, 1.0]]


def test_names_and_scaling_are_kept_without_sequences():
    series = shops()
    names = empty_like(json.loads(json.dumps(series.record.settings)))
    assert len(names) == 0
    row = {"shop": "new", "day": ["2024-02-01"], "sold": 4.0, "price": 0.1, "kind": "b"}
    again = from_dataframe(pd.DataFrame(row), like=names)
    assert (again.layout, again.scaling) == (series.layout, series.scaling)
    with pytest.raises(ValueError, match="settings must be those of the record of series"):
        empty_like({"layout": 3})


def test_a_file_is_read_as_the_earlier_one_was(tmp_path):
    table = pd.DataFrame({"day": [1, 2, 3], "sold": [1.5, 2.5, 3.0]})
    table.to_csv(tmp_path / "a.csv", index=False, sep=";", decimal=",")
    first = from_folder(tmp_path / "a.csv", time="day", csv={"sep": ";", "decimal": ","})
    table.assign(day=table.day + 3).to_csv(tmp_path / "b.csv", index=False, sep=";", decimal=",")
    second = from_folder(tmp_path / "b.csv", like=empty_like(first.record.settings))
    assert (second.ids, second.steps(0).values[:, 0].tolist()) == (["b"], [1.5, 2.5, 3.0])
