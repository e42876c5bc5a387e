"""Numbers as people read them."""

import math

from pruneyard.reports import formats
from pruneyard.testing.cases import each_case


@each_case(
    ("triple", "expected"),
    [
        ((0.91234, 0.90822, 0.91646), ("0.9123", "0.0041")),
        ((0.91234, 0.81234, 1.01234), ("0.91", "0.10")),
        ((123.456, 100.0, 146.912), ("123", "23")),
        ((0.5, math.nan, math.nan), ("0.5000", "")),
        ((math.nan, math.nan, math.nan), ("n/a", "")),
        ((0.5, 0.5, 0.5), ("0.5000", "0")),
        ((-0.0004, -0.1, 0.0992), ("0.000", "0.100")),  # no zero has a sign
    ],
)
def test_as_many_digits_as_the_interval_supports(triple, expected):
    assert formats.estimate(*triple) == expected


def test_amounts_and_durations():
    assert formats.amount(85_002) == "85 k"
    assert formats.amount(3.2e12) == "3.2 T"
    assert formats.amount(12) == "12"
    assert formats.amount(None) == "n/a"
    assert formats.duration(35.5) == "35.5 s"
    assert formats.duration(600) == "10 min"
    assert formats.duration(36_000) == "10 h"


def test_lists_are_cut():
    assert formats.listed(["a", "b", "c"], limit=2) == "a, b and 1 more"
    assert formats.plural(1, "run") == "1 run"
    assert formats.plural(1200, "run") == "1,200 runs"


@each_case(("longest", "unit"), [(0.4, ("ms", 1e-3)), (119.0, ("s", 1.0)), (120.0, ("min", 60.0)), (7200.0, ("h", 3600.0))])
def test_times_of_an_axis_are_in_the_unit_of_the_longest(longest, unit):
    assert formats.time_unit(longest) == unit
