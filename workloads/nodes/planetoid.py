"""The citation graphs that Planetoid made common, read in their npz form; its own files are pickles and stay closed."""

from abc import ABC
from dataclasses import dataclass

from pruneyard.workloads import plugins
from pruneyard.workloads.data.dataset import DataNotFoundError
from pruneyard.workloads.nodes.graph_files import WANTED, GraphFile


@dataclass(frozen=True, kw_only=True)
class PlanetoidGraph(GraphFile, ABC):
    """Looks for NAME.npz in a folder or its subfolder `graphs`.

    Planetoid publishes `ind.NAME.x`, `.graph` and so on, which are pickles: opening one runs whatever it holds, so where only
    those are found, the error says which npz file is wanted instead. The public split is therefore there only if the npz file
    holds its masks.
    """

    @property
    def candidates(self) -> tuple[str, ...]:
        name = plugins.name_of(self)
        return (f"graphs/{name}.npz", f"{name}.npz")

    def missing(self) -> Exception:
        name = plugins.name_of(self)
        places = (".", "graphs", "*", "*/raw", "*/*/raw", "raw")
        for folder in self.folders():
            for place in places:
                if raw := sorted(folder.glob(f"{place}/ind.{name}.*")):
                    return DataNotFoundError(
                        f"{raw[0].parent}/ind.{name}.* are pickles, which are never opened; put {self.candidates[0]} there "
                        f"instead: {WANTED}"
                    )
        return super().missing()
