"""Data of a study as a process on Ray reads it: one read-only copy a node, however many trials."""

from collections.abc import Callable, Mapping

import ray

from pruneyard.workloads.data.dataset import Dataset, Source


def shared_data_loader(data: Mapping[Source, "ray.ObjectRef[Dataset]"]) -> Callable[[Source], Dataset]:
    """What is shared comes from the object store, what is not from where it lies; each once per process."""
    loaded: dict[Source, Dataset] = {}

    def load_data(source: Source) -> Dataset:
        if source not in loaded:
            loaded[source] = ray.get(data[source]) if source in data else source.load()
        return loaded[source]

    return load_data
