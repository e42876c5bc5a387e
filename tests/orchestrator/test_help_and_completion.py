"""Help, completion and messages about misspelt verbs import no heavy library."""

import importlib
import inspect
import json
import os
import subprocess
import sys

import pytest
from in_process_command import Pruneyard

from pruneyard.orchestrator.cli import VERBS
from pruneyard.orchestrator.commands import cache
from pruneyard.orchestrator.commands.cache_verbs import cache_verbs
from pruneyard.orchestrator.commands.declarations import declared
from pruneyard.orchestrator.commands.list import TOPICS
from pruneyard.orchestrator.spec.packaged import packaged_specs
from pruneyard.reports.export import FORMATS
from pruneyard.testing.cases import each_case

SLOW = {"torch", "ray", "pandas", "pyarrow", "scipy", "altair"}

HELP_OF_ALL = """
import sys
from pruneyard.orchestrator.cli import VERBS, cli
for verb in VERBS:
    try:
        cli.main([verb, "--help"], prog_name="pruneyard", standalone_mode=False)
    except SystemExit:
        pass
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def completed(line: str, incomplete_at: int) -> list[str]:
    """Returns what the shell is offered for a line, as `type,value`."""
    variables = {"COMP_WORDS": line, "COMP_CWORD": str(incomplete_at), "_PRUNEYARD_COMPLETE": "bash_complete"}
    program = "from pruneyard.orchestrator.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ | variables
    )
    assert not done.stderr, done.stderr
    return done.stdout.split()


def test_the_help_of_all_verbs_loads_no_library_that_is_slow_to_import() -> None:
    done = subprocess.run([sys.executable, "-c", HELP_OF_ALL], capture_output=True, text=True, check=True)
    assert done.stdout.count("Usage: pruneyard") == len(VERBS)
    assert not set(done.stdout.splitlines()[-1].split()) & SLOW


@each_case("verb", [verb for verb in VERBS if verb not in ("cache", "completion")])
def test_a_verb_is_carried_out_with_the_values_that_it_declares(verb: str) -> None:
    execute = importlib.import_module(f"pruneyard.orchestrator.commands.{verb}").execute
    given = {parameter.name for parameter in declared(verb).params}
    assert given == set(inspect.signature(execute).parameters)


def test_each_verb_of_caches_is_carried_out_with_the_values_that_it_declares() -> None:
    for name, verb in cache_verbs().commands.items():
        given = {parameter.name for parameter in verb.params}
        assert given == set(inspect.signature(getattr(cache, name)).parameters), name


def test_the_formats_of_tables_are_those_that_can_be_chosen() -> None:
    (form,) = (parameter for parameter in declared("export").params if parameter.name == "form")
    assert tuple(form.type.choices)[: len(FORMATS)] == FORMATS  # type: ignore[attr-defined]


def test_the_shell_completes_names_of_packaged_specs_and_files() -> None:
    assert completed("pruneyard run quickst", 2) == ["plain,quickstart", "file,quickst"]
    assert len([word for word in completed("pruneyard plan", 2) if word.startswith("plain,")]) == len(packaged_specs())
    assert completed("pruneyard resume ou", 2) == ["dir,ou"]


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (("rnu", "quickstart"), "did you mean run?"),
        (("statsu",), "did you mean status?"),
        (("frobnicate",), "there are init, list"),
        (("plan", "quikstart"), "did you mean quickstart?"),
        (("plan", "quickstart", "--outt", "x"), "--out"),
    ],
)
def test_a_misspelt_verb_is_refused_with_the_nearest_name(
    pruneyard: Pruneyard, arguments: tuple[str, ...], suggestion: str
) -> None:
    result = pruneyard(*arguments)
    assert result.code == 2
    assert suggestion in result.err


def test_the_overview_fits_a_screen_and_labels_kinds(pruneyard: Pruneyard) -> None:
    lines = pruneyard("list").out.splitlines()
    assert len(lines) < 60  # one line per entry took 462
    assert {line.split()[0] for line in lines if line and not line.startswith(" ")} >= TOPICS.keys()
    (sparse,) = (line for line in lines if line.split()[:1] == ["sparse"])
    assert "acdc" in sparse
    assert pruneyard("list", "methods").out.splitlines()[0].split() == ["methods", "kind", "summary", "reference"]


def test_a_spec_is_described_by_the_whole_first_sentence_of_its_comment(pruneyard: Pruneyard) -> None:
    summaries = {entry["name"]: entry["summary"] for entry in json.loads(pruneyard("list", "specs", "--json").out)}
    for name, summary in summaries.items():
        assert summary.endswith("."), name
        assert ". " not in summary, name
    two_lines = (
        "AGENT where gradient noise limits training: MNIST, 16,000 rows, SET and RigL at density 0.02, batches of 16, "
        "a constant rate, no momentum."
    )
    assert summaries["agent-evidence"] == two_lines


@each_case("verb", ["submit", "wait"])
def test_only_verbs_that_take_a_job_say_that_its_address_is_known(verb: str, pruneyard: Pruneyard) -> None:
    shown = " ".join(pruneyard(verb, "--help").out.split())
    assert ("where JOB was submitted to, " in shown) == (verb == "wait")
    assert "or the address of the last submission]" in shown
