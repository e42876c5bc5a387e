"""What a folder of results holds, for Python and notebooks; needs neither Ray nor torch."""

from pathlib import Path

import pandas as pd

from orchestrator.errors import ExitCode
from reports.export import shown
from reports.layout import RunFolder
from reports.page import write_page
from reports.records import Status
from reports.store import Store
from reports.summary import cells


class Results:
    """Reads a folder, also while it is being written."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = RunFolder(Path(folder))
        self.signal_number: int | None = None
        self._store = Store(self.folder)

    def runs(self) -> pd.DataFrame:
        """One row per run, its newest attempt."""
        return pd.DataFrame(self._store.runs().to_pandas())

    def metrics(self) -> pd.DataFrame:
        """Long form: one row per run, step, split and metric."""
        return pd.DataFrame(self._store.metrics().to_pandas())

    def curves(self) -> pd.DataFrame:
        """Long form: one row per point."""
        return pd.DataFrame(self._store.curves().to_pandas())

    def summary(self) -> pd.DataFrame:
        """One row per cell (runs that differ only in their seed): means over seeds with 95% intervals."""
        return cells(self._store.runs(), self._store.metrics())

    def report(self, out: str | Path | None = None) -> Path:
        """Writes the HTML page, `report.html` in the folder by default."""
        return write_page([self.folder.path], Path(out) if out is not None else self.folder.report)

    @property
    def exit_code(self) -> ExitCode:
        """How the newest attempts ended, as the command's exit code."""
        statuses = {status for status, _ in self._store.statuses().values()}
        if Status.FAILED in statuses:
            return ExitCode.FAILED
        return ExitCode.PARTIAL if Status.INTERRUPTED in statuses else ExitCode.FINISHED

    def __repr__(self) -> str:
        return f"Results({str(self.folder.path)!r})\n{shown(self.summary()).to_string(index=False)}"

    def _repr_html_(self) -> str:
        return shown(self.summary()).to_html(index=False)
