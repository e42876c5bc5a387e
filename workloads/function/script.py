"""A script as the code of a job: a command that prints its metrics as JSON lines, or writes them to a file."""

import difflib
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruneyard.workloads.function.function_run import FunctionRun
from pruneyard.workloads.function.lengths import length_in
from pruneyard.workloads.function.script_process import SEED_VARIABLE, ScriptProcess
from pruneyard.workloads.user_code.files import base_folder
from pruneyard.workloads.user_code.identity import SOURCE
from pruneyard.workloads.user_code.source_code import file_in, script_files

RESERVED = ("seed", "artifact", "checkpoint", "metrics")
"""Placeholders that are no arguments."""
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Script:
    """A command with placeholders for its arguments, run from the folder in which the study was started, without a shell.

    Each line of its output that is a JSON object is a report: `{"step": 3, "train/loss": 0.2, "accuracy": 0.9}`. Beside the
    arguments, `{seed}` is the seed, as is the environment variable `PRUNEYARD_SEED`; `{metrics}` the path of a file whose lines
    are reports, in place of the output; `{artifact}` a folder whose files become part of the run; `{checkpoint}` a folder whose
    files are saved after each report, and that a resumed run finds as it was at its last checkpoint. `python` is the interpreter
    that runs pruneyard.
    """

    command: str

    @property
    def title(self) -> str:
        """The name of the script, for people."""
        words = self._words()
        return next((Path(word).name for word in words if word.endswith(".py")), Path(words[0]).name)

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raises `ValueError`, starting with the key, if the command does not fit its arguments, or a file of it is missing."""
        words = self._words()
        named = {name for word in words for name in _PLACEHOLDER.findall(word)}
        for name in sorted(set(RESERVED) & arguments.keys()):
            raise ValueError(
                f"arguments.{name} is reserved: in a command, {{{name}}} has a meaning of its own"
            )
        for name in sorted(named - set(RESERVED) - arguments.keys()):
            close = difflib.get_close_matches(name, [*arguments, *RESERVED], n=1)
            hint = f"; did you mean {{{close[0]}}}?" if close else ""
            raise ValueError(f"command has the placeholder {{{name}}}, but arguments.{name} is missing{hint}")
        for name in arguments:
            if name not in named:
                raise ValueError(f"arguments.{name} is not used: the command has no {{{name}}}")
        program = self._program(words[0])
        if shutil.which(program, path=None) is None and not (base_folder() / program).is_file():
            raise ValueError(f"command starts with {words[0]}, which is no program that can be found")
        for word in _filled(words[1:], arguments):
            named_file = _option_value(word)
            if (
                named_file.endswith(".py")
                and not _PLACEHOLDER.search(named_file)
                and _file_in_base(word) is None
            ):
                raise ValueError(f"command names {named_file}, but there is no such file in {base_folder()}")

    def run(self, arguments: Mapping[str, Any], run: FunctionRun) -> None:
        """Runs the script and reports what it says. Raises `ScriptError` if it ends with another exit code than 0."""
        with ScriptProcess(run) as process:
            places = {
                "seed": run.seed,
                "artifact": run.artifact,
                "checkpoint": process.checkpoint_folder,
                "metrics": process.metrics_file,
            }
            first, *words = _filled(self._words(), {**arguments, **places})
            process.run([self._program(first), *words], reads_file="{metrics}" in self.command)

    def num_steps(self, arguments: Mapping[str, Any]) -> int | None:
        """Returns the number of steps that an argument tells; else None."""
        return length_in(arguments)

    def seeds_problem(self, arguments: Mapping[str, Any]) -> str:
        """Returns why runs with different seeds would be the same; empty where the text of the script mentions the seed."""
        if "{seed}" in self.command or SEED_VARIABLE in self.command:
            return ""
        words = _filled(self._words(), arguments)
        named = [base_folder() / name for name in map(_file_in_base, words) if name is not None]
        if any(SEED_VARIABLE.encode() in file.read_bytes() for file in {*self.files(arguments), *named}):
            return ""
        return (
            f"is more than one, but the command has no {{seed}}, and no file that it names reads {SEED_VARIABLE}, so all runs "
            f"would be the same; put {{seed}} into the command, or let the script read the environment variable {SEED_VARIABLE}"
        )

    def identity(self, arguments: Mapping[str, Any], *, with_source: bool) -> dict[str, str]:
        """Returns what the run key says about the script: the command, and a digest of its files unless that is left out."""
        if not with_source:
            return {"command": self.command}
        digest = hashlib.sha256()
        for name, file in sorted(self._sources(arguments).items()):
            digest.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\0".encode())
        return {"command": self.command, SOURCE: digest.hexdigest()[:16]}

    def files(self, arguments: Mapping[str, Any]) -> list[Path]:
        """Returns the files that the command names, and what its Python files import."""
        return sorted(set(self._sources(arguments).values()))

    def files_to_copy(self, arguments: Mapping[str, Any]) -> dict[str, Path]:
        """Returns the files that other machines need, by their path below the current folder, in which the command runs there.

        Raises `ValueError` for a file that the command would not find there: one outside the folder, or named by its whole path.
        Other files that are named by whole paths, such as data, must be on every machine.
        """
        found, folder = {}, base_folder()
        for name, file in self._sources(arguments).items():
            place = Path(os.path.normpath(file))
            if Path(name).is_absolute() or not place.is_relative_to(folder):
                raise ValueError(
                    f"needs {file}, which a cluster would not find: only files below {folder} are sent, and found by relative "
                    "paths; move it there, and name it by such a path"
                )
            found[place.relative_to(folder).as_posix()] = place
        return found

    def _sources(self, arguments: Mapping[str, Any]) -> dict[str, Path]:
        """Returns the files that run keys cover, by their name in the command and by module."""
        words = _filled(self._words(), arguments)
        found: dict[str, Path] = {}
        for place, word in enumerate(words):
            if place > 0 and words[place - 1] == "-m" and (module := self._module(word)) is not None:
                name, file = module
                found |= script_files(file, name=name, folder=base_folder())
            elif (named := _file_in_base(word)) is not None:
                path = base_folder() / named
                if named.endswith(".py"):
                    found |= script_files(path, name=named, folder=path.parent)
                elif not Path(named).is_absolute():
                    found[named] = path
        return found

    @staticmethod
    def _module(name: str) -> tuple[str, Path] | None:
        """Returns name and file of the module that `python -m` runs; None for one that a package manager installed."""
        file = file_in(base_folder(), f"{name}.__main__") or file_in(base_folder(), name)
        return None if file is None else (f"{name}.__main__" if file.stem == "__main__" else name, file)

    def _words(self) -> list[str]:
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise ValueError(
                f"command is {self.command!r}; it cannot be split into words: {error}"
            ) from error
        if not words:
            raise ValueError("command is empty; it must be a program and its arguments")
        return words

    @staticmethod
    def _program(word: str) -> str:
        return sys.executable if word in ("python", "python3") else word


def _filled(words: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """Returns the words with values in place of those placeholders that have one."""
    texts = {name: _text(value) for name, value in values.items()}
    return [_PLACEHOLDER.sub(lambda found: texts.get(found[1], found[0]), word) for word in words]


def _option_value(word: str) -> str:
    """Returns what follows the first `=`, as of `--config=conf.json`; another word as it is."""
    return word.partition("=")[2] or word


def _file_in_base(word: str) -> str | None:
    """Returns the part of a word that names a file: all of it, or what follows `=`; None if there is none."""
    # `os.path`, since a value may be no name that a file can have.
    return next((name for name in (word, _option_value(word)) if os.path.isfile(base_folder() / name)), None)


def _text(value: Any) -> str:
    """Returns a value as a word of a command: text and paths as they are, anything else as JSON."""
    return str(value) if isinstance(value, str | Path) else json.dumps(value)
