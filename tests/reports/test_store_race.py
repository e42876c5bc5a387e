"""Readers during writes and compactions, in other threads and processes, see every row exactly once."""

import multiprocessing
import threading
from pathlib import Path

from made_up_study import metric, record

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

NUM_RUNS = 30
ROWS_EACH = 3


def write_runs(path: Path, first: int, num: int) -> None:
    """Writes runs one by one and compacts now and then. It runs in another process."""
    store = Store(RunFolder(path))
    for number in range(first, first + num):
        store.write(record(f"key{number:04d}"), [metric(0.5, step=step) for step in range(ROWS_EACH)], [])
        if number % 7 == 6:
            store.compact()


def check_whole(store: Store) -> int:
    """Checks that every run row has all of its metric rows once; returns the number of runs."""
    runs = store.runs(latest=False).column("run_key").to_pylist()
    metrics = store.metrics().column("run_key").to_pylist()
    assert len(runs) == len(set(runs))
    counts = {key: metrics.count(key) for key in set(metrics)}
    assert set(counts.values()) <= {ROWS_EACH}
    assert set(runs) <= set(counts)
    return len(runs)


def test_readers_neither_lose_nor_repeat_rows_during_compactions(tmp_path):
    writers = [
        multiprocessing.get_context("spawn").Process(target=write_runs, args=(tmp_path, first, NUM_RUNS))
        for first in (0, 1000)
    ]
    for writer in writers:
        writer.start()
    store, seen = Store(RunFolder(tmp_path)), 0
    while any(writer.is_alive() for writer in writers):
        found = check_whole(store)
        assert found >= seen, "a row that was there is gone"
        seen = found
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert check_whole(store) == 2 * NUM_RUNS


def test_two_compactions_at_once_keep_every_row(tmp_path):
    write = Store(RunFolder(tmp_path))
    for number in range(40):
        write.write(record(f"key{number:04d}"), [metric(0.5, step=step) for step in range(ROWS_EACH)], [])
    gate = threading.Barrier(4)

    def compact():
        gate.wait()
        Store(RunFolder(tmp_path)).compact()

    threads = [threading.Thread(target=compact) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert check_whole(write) == 40
    for thread in threads:
        thread.join()
    assert check_whole(write) == 40
