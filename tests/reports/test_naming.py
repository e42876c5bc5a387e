"""Short names of columns, none of which two columns share."""

from pruneyard.reports.naming import column_names


def test_a_setting_is_called_by_the_last_part_of_its_key():
    assert column_names(["method.schedule.every", "optimizer.name"]) == {
        "method.schedule.every": "every",
        "optimizer.name": "optimizer",
    }


def test_what_an_earlier_run_had_is_said_to_be_of_it():
    keys = [
        "input.runs.method.name",
        "input.runs.objective.name",
        "input.runs.data.runs.method.name",
        "data.runs.method.name",
        "teacher.runs.optimizer.lr",
    ]
    names = ["input's method", "input's objective", "input's data's method", "data's method", "teacher's lr"]
    assert list(column_names(keys).values()) == names


def test_no_two_columns_are_called_the_same():
    keys = [
        "method.every",
        "schedule.every",
        "a.data.runs.method.name",
        "b.data.runs.method.name",
        "model.density",
    ]
    names = column_names(keys, taken=["density"])
    assert len(set(names.values())) == len(keys)
    assert names["model.density"] == "model.density"
    assert names["method.every"] == "method.every"
    assert names["a.data.runs.method.name"] == "a.data.runs.method.name"


def test_settings_of_one_earlier_run_that_end_alike_keep_more_of_their_keys():
    names = column_names(["input.runs.method.every", "input.runs.schedule.every"])
    assert list(names.values()) == ["input's method.every", "input's schedule.every"]
