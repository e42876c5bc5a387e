"""Reads the data sets of a study from Ray's object store: one read-only copy per node, however many trials."""

from collections.abc import Callable, Mapping

import ray

from pruneyard.workloads.data.dataset import Dataset, Source


def shared_data_loader(data: Mapping[Source, "ray.ObjectRef[Dataset]"]) -> Callable[[Source], Dataset]:
    """Returns a function that loads a data set from the object store, or from its source; each only once per process."""
    loaded: dict[Source, Dataset] = {}

    def load_data(source: Source) -> Dataset:
        if source not in loaded:
            loaded[source] = ray.get(data[source]) if source in data else source.load()
        return loaded[source]

    return load_data
