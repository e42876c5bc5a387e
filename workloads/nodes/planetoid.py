"""Base class of the Planetoid citation graphs, read from npz files; Planetoid's own pickle files are never opened."""

from abc import ABC
from dataclasses import dataclass

from pruneyard.workloads import plugins
from pruneyard.workloads.data.dataset import DataNotFoundError
from pruneyard.workloads.nodes.graph_files import WANTED, GraphFile


@dataclass(frozen=True, kw_only=True)
class PlanetoidGraph(GraphFile, ABC):
    """Reads NAME.npz from a folder or its subfolder `graphs`.

    Planetoid publishes pickles (`ind.NAME.x`, `.graph` and so on), and unpickling can execute arbitrary code. If only these
    exist, the error names the npz file to provide instead. The public split is therefore only available if the npz file has
    its masks.
    """

    @property
    def candidates(self) -> tuple[str, ...]:
        name = plugins.name_of(self)
        return (f"graphs/{name}.npz", f"{name}.npz")

    def missing(self) -> Exception:
        name = plugins.name_of(self)
        # Searched only to explain the missing npz file; nothing is read from them.
        places = (".", "graphs", "*", "*/raw", "*/*/raw", "raw")
        for folder in self.folders():
            for place in places:
                if raw := sorted(folder.glob(f"{place}/ind.{name}.*")):
                    return DataNotFoundError(
                        f"name is {name!r}; {raw[0].parent}/ind.{name}.* are pickles, which pruneyard never opens; put "
                        f"{self.candidates[0]} there instead: {WANTED}",
                        source=self,
                    )
        return super().missing()
