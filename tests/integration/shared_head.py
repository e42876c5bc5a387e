"""One Ray head for all studies of a test session that neither kill it nor need their own cluster.

A study starts some ten seconds sooner there than on a cluster that its driver starts first.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from driving import POLL_EVERY_S, Driver, alive, driving, is_actor, is_rank
from several_nodes import Nodes, several_nodes

NUM_CPUS = 2


@dataclass(frozen=True)
class SharedHead:
    """A head with `NUM_CPUS` CPUs, whatever the machine has."""

    nodes: Nodes

    @property
    def address(self) -> str:
        """The address at which studies join the head."""
        return self.nodes.address

    def env(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Returns a driver's environment. Its trials get `variables` too: a Ray job passes its environment to its processes."""
        job = {"runtime_env": {"env_vars": dict(variables)}}
        return {**self.nodes.env, **variables, "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job)}

    @contextlib.contextmanager
    def driving(self, *arguments: str | Path, folder: Path, report: bool = False, **variables: str) -> Iterator[Driver]:
        """Yields a driver that joins the head; after the block no process of its study is left."""
        try:
            command = (*arguments, "--address", self.address)
            with driving(*command, folder=folder, env=self.env(variables), report=report) as driver:
                yield driver
        finally:
            self.wait_until_idle()

    def run(
        self,
        *arguments: str | Path,
        folder: Path,
        code: int = 0,
        within_s: float = 300.0,
        report: bool = False,
        **variables: str,
    ) -> Driver:
        """Runs a command to its end, which must be the exit code `code`."""
        with self.driving(*arguments, folder=folder, report=report, **variables) as driver:
            assert driver.wait(within_s=within_s) == code, driver.output()
        return driver

    def trials(self) -> list[psutil.Process]:
        """Returns the processes in which trials run."""
        return self._processes(is_actor)

    def ranks(self) -> list[psutil.Process]:
        """Returns the processes that train one network together with others."""
        return self._processes(is_rank)

    def wait_until_idle(self, *, within_s: float = 60.0) -> None:
        """Waits until no trial and no rank is left; fails after `within_s`."""
        deadline = time.monotonic() + within_s
        while left := [*self.trials(), *self.ranks()]:
            assert time.monotonic() < deadline, f"processes outlived their study: {left}"
            time.sleep(POLL_EVERY_S)

    def _processes(self, is_of_kind: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
        children = self.nodes["head"].raylet.children(recursive=True)
        return [process for process in children if alive(process) and is_of_kind(process)]


@contextlib.contextmanager
def shared_head(env: Mapping[str, str]) -> Iterator[SharedHead]:
    """Starts the head on free ports and ends it, by its process id, after the block."""
    with several_nodes(env, head=NUM_CPUS) as nodes:
        yield SharedHead(nodes)
