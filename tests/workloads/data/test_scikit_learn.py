"""The data files of scikit-learn hold what its own loaders return."""

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine

from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.scikit_learn import read_digits, read_table


def test_digits_are_those_of_the_loader() -> None:
    bunch = load_digits()
    greys, classes = read_digits()
    assert np.array_equal(greys, bunch.images)
    assert np.array_equal(classes, bunch.target)
    assert list(bunch.target_names) == list(range(10))


@each_case(("name", "load"), [("wine_data.csv", load_wine), ("breast_cancer.csv", load_breast_cancer)])
def test_tables_are_those_of_the_loaders(name: str, load: object) -> None:
    assert callable(load)
    bunch = load()
    rows, classes = read_table(name)
    assert np.array_equal(rows.images, bunch.data.astype(np.float32))
    assert np.array_equal(rows.labels, bunch.target)
    assert classes == tuple(bunch.target_names)
