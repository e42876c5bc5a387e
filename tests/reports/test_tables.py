"""Columns of a table: which stay visible when it scrolls, and which are left out because no row has a value."""

from pruneyard.reports.tables import Table, Value


def table(*texts, num_labels=None):
    headers = [f"h{place}" for place in range(len(texts))]
    row = [Value(text=text) for text in texts]
    return Table(headers=headers, num_labels=len(texts) if num_labels is None else num_labels, rows=[row])


def test_label_columns_stay_side_by_side():
    frozen = table("rigl", "sgd", "0.95", num_labels=2).frozen
    assert len(frozen) == 2
    (first, width), (second, _) = frozen
    assert first == 0
    assert second == width


def test_labels_that_leave_no_room_for_numbers_scroll_away():
    frozen = table(*["x" * 24] * 5).frozen
    assert 1 <= len(frozen) < 5
    assert sum(width for _, width in frozen) <= 30


def test_the_first_column_stays_however_long_and_wraps():
    ((left, width),) = table("x" * 500, "y" * 500).frozen
    assert left == 0
    assert width < 20


def test_a_column_is_as_wide_as_a_word_of_its_header():
    narrow, wide = (
        Table(headers=[header], num_labels=1, rows=[[Value(text="1")]]).frozen
        for header in ("lr", "momentum")
    )
    assert wide[0][1] > narrow[0][1]


def test_columns_without_a_value_are_left_out_but_the_last_label():
    rows = [[Value(text="\u2013"), Value(text="rigl"), Value(text="n/a"), Value(text="words"), Value(text="0")] for _ in range(2)]
    whole = Table(headers=["stage", "method", "test ECE", "verdict", "seeds"], num_labels=2, rows=rows, texts={3})
    kept = whole.without_empty_columns()
    assert (kept.headers, kept.num_labels, set(kept.texts)) == (["method", "verdict", "seeds"], 1, {1})
    assert [value.text for value in kept.rows[0]] == ["rigl", "words", "0"]
    unnamed = Table(headers=["method", "seeds"], num_labels=1, rows=[[Value(text=""), Value(text="3")]])
    assert unnamed.without_empty_columns().headers == ["method", "seeds"]
