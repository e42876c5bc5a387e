"""HyperBand: the brackets of its paper, decisions at rungs, and pauses and kills that change no number."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from killed_driver import KillingDisplay

from pruneyard.orchestrator.coordination.journal import Journal
from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.early_stopping.asha_median import EarlyStopper
from pruneyard.orchestrator.early_stopping.hyperband import Brackets, assign_brackets, brackets_of
from pruneyard.orchestrator.errors import SpecError, UsageError
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.scheduler import Scheduler
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store
from pruneyard.testing.cases import each_case

RULE: dict[str, Any] = {"name": "hyperband", "metric": "val/accuracy", "grace": 0.25, "reduction_factor": 2.0}
BASE: dict[str, Any] = {
    "name": "banded",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 200, "max_test": 50},
    "model": {"name": "mlp", "width": 16, "depth": 1, "dropout": 0.1},
    "method": {"name": "set", "density": 0.5},
    "budget": {"epochs": 8, "batch_size": 16},
    "seeds": 2,
    "grid": {"optimizer.lr": [0.2, 1.0e-6, 0.1, 1.0e-7, 0.05, 1.0e-8, 1.0e-9]},
    "scheduler": RULE,
}
WITHOUT = {name: table for name, table in BASE.items() if name != "scheduler"}


def test_brackets_are_those_of_the_paper() -> None:
    """Table 1 of JMLR 18 (R = 81, eta = 3): n and r of the first rung of s = 4 ... 0 are 81, 27, 9, 6, 5 and 1, 3, 9, 27, 81.

    By its algorithm 1, n of s = 3 is ceil(5 / 4 * 27) = 34 and of s = 2 is ceil(5 / 3 * 9) = 15; the table rounds otherwise.
    """
    found = brackets_of(Scheduler(**{**RULE, "grace": 1 / 81, "reduction_factor": 3.0}))
    assert [round(81 * bracket.shares[0]) for bracket in found] == [1, 3, 9, 27, 81]
    assert [bracket.size for bracket in found] == [81, 34, 15, 8, 5]
    assert [len(bracket.shares) for bracket in found] == [5, 4, 3, 2, 1]
    assert all(bracket.shares[-1] == 1.0 for bracket in found)


@each_case("sizes", [[81, 34, 15, 8, 5], [9, 5, 3], [4, 3, 3]])
def test_configurations_are_assigned_to_brackets_in_proportion_and_keep_their_bracket(sizes: list[int]) -> None:
    assigned = assign_brackets(sum(sizes), sizes)
    assert [assigned.count(number) for number in range(len(sizes))] == sizes
    for number in range(sum(sizes)):
        assert assign_brackets(number, sizes) == assigned[:number]
    assert assign_brackets(1, sizes) == [0]


class SimulatedBrackets:
    """Brackets over configurations of two seeds that get values from a test, without a training."""

    def __init__(self, folder: Path, *, number: int = 10) -> None:
        spec = load_spec(
            {**WITHOUT, "grid": {"optimizer.lr": [(index + 1) / 100 for index in range(number)]}}
        )
        scheduler = Scheduler(**RULE)
        self.keys = [job.key for job in spec.jobs]
        self.early_stopper = EarlyStopper(scheduler, spec.jobs, Journal(folder / "reports.jsonl"))
        self.brackets = Brackets(scheduler, spec.jobs, self.early_stopper, Journal(folder / "rungs.jsonl"))
        self.statuses: dict[str, Status] = {}

    def due_runs(self) -> tuple[list[int], float]:
        """Returns the numbers of the runs that continue, and their next budget."""
        due = self.brackets.next_budgets(self.statuses)
        (share,) = set(due.values())
        return sorted(self.keys.index(key) for key in due), share

    def eliminated_configurations(self) -> set[int]:
        """Returns the numbers of the eliminated configurations."""
        return {self.keys.index(key) // 2 for key in self.brackets.eliminated()}

    def report_runs(self, numbers: Sequence[int], share: float, values: dict[int, float] | None = None) -> None:
        """Reports runs at a share of the budget, with the values of some configurations."""
        for number in numbers:
            value = (values or {}).get(number // 2, -float(number))
            self.early_stopper.on_result(self.keys[number], share=share, value=value)
            self.statuses[self.keys[number]] = Status.INTERRUPTED  # as in the record of a pause
        self.brackets.decide(self.statuses)


def runs(*configurations: int) -> list[int]:
    return [run for number in sorted(configurations) for run in (2 * number, 2 * number + 1)]


def test_worked_by_hand(tmp_path: Path) -> None:
    """Shares 1/4, 1/2, 1; sizes 4, 3, 3. Ten configurations: what is better comes first here."""
    simulation = SimulatedBrackets(tmp_path)
    first, second, third = (
        [i for i, index in enumerate(assign_brackets(10, [4, 3, 3])) if index == number] for number in range(3)
    )
    assert [len(first), len(second), len(third)] == [4, 3, 3]
    assert simulation.due_runs() == (runs(*first), 0.25)
    simulation.report_runs(runs(*first[:3]), 0.25)
    simulation.report_runs([2 * first[3]], 0.25)
    assert simulation.due_runs() == ([2 * first[3] + 1], 0.25), "a rung was decided before all of its runs had reported"
    assert not simulation.eliminated_configurations()
    simulation.report_runs([2 * first[3] + 1], 0.25)
    assert simulation.eliminated_configurations() == set(first[2:])
    assert simulation.due_runs() == (runs(*first[:2], *second), 0.5), "the runs of both brackets share this rung"
    simulation.report_runs(runs(*first[:2], *second), 0.5, {second[2]: 99.0})
    assert simulation.eliminated_configurations() == {*first[1:], *second[:2]}, "the best of two and the best of three continue"
    assert simulation.due_runs() == (runs(first[0], second[2], *third), 1.0)
    simulation.statuses |= {simulation.keys[number]: Status.COMPLETED for number in runs(first[0], second[2], *third)}
    assert not simulation.brackets.next_budgets(simulation.statuses)


def test_failed_runs_are_excluded_and_delay_no_other_run(tmp_path: Path) -> None:
    simulation = SimulatedBrackets(tmp_path)
    due, _ = simulation.due_runs()
    first = sorted({number // 2 for number in due})
    lost = [*runs(first[0]), 2 * first[1]]  # the best with both seeds, the next with one
    simulation.report_runs([number for number in due if number not in lost], 0.25)
    assert not simulation.eliminated_configurations()
    simulation.brackets.mark_lost([simulation.keys[number] for number in lost])
    simulation.brackets.decide(simulation.statuses)
    assert simulation.eliminated_configurations() == {*first[2:]}, (
        "one of three with results continues, and the one without results is not eliminated"
    )
    assert set(simulation.due_runs()[0]) >= {2 * first[1] + 1}
    assert not {2 * first[1], *runs(first[0])} & set(simulation.due_runs()[0])


def test_a_run_that_was_killed_between_its_report_and_its_record_is_due_again(tmp_path: Path) -> None:
    simulation = SimulatedBrackets(tmp_path)
    due, share = simulation.due_runs()
    simulation.report_runs(due, share)
    promoted, higher = simulation.due_runs()
    simulation.report_runs(promoted, higher)
    assert simulation.due_runs()[1] > higher
    # After one of the runs was killed at the second rung, and another one at the first.
    second_call = SimulatedBrackets(tmp_path)
    # Runs that start at the second rung have one evaluation.
    num = {simulation.keys[run]: 1 + (run in due) for run in promoted}
    num |= {simulation.keys[run]: 1 for run in due if run not in promoted}
    killed, lost = next(run for run in promoted if run in due), next(run for run in due if run not in promoted)
    second_call.brackets.mark_recorded({**num, simulation.keys[killed]: 1, simulation.keys[lost]: 0})
    assert second_call.due_runs() == ([lost], share)
    second_call.brackets.mark_ran([simulation.keys[lost]])
    assert second_call.due_runs() == ([killed], higher)
    second_call.brackets.mark_ran([simulation.keys[killed]])
    assert second_call.due_runs() == simulation.due_runs()


@pytest.mark.parametrize(("value", "continues"), [(1000.0, True), (-1000.0, False)])
def test_what_failed_and_is_run_again_is_measured_by_the_last_one_kept(
    tmp_path: Path, value: float, continues: bool
) -> None:
    simulation = SimulatedBrackets(tmp_path)
    due, _ = simulation.due_runs()
    killed = [due[-2], due[-1]]
    simulation.report_runs([number for number in due if number not in killed], 0.25)
    simulation.brackets.mark_lost([simulation.keys[number] for number in killed])
    simulation.brackets.decide(simulation.statuses)
    before = simulation.eliminated_configurations()
    second_call = SimulatedBrackets(tmp_path)
    second_call.statuses = dict(simulation.statuses)
    assert second_call.eliminated_configurations() == before
    assert second_call.due_runs() == (killed, 0.25)
    second_call.report_runs(killed, 0.25, {killed[0] // 2: value})
    assert second_call.eliminated_configurations() - before == (set() if continues else {killed[0] // 2})
    assert (killed[0] in second_call.due_runs()[0]) == continues


@each_case(
    ("change", "message"),
    [
        ({"grace": 0.6}, "at most 1 / reduction_factor, which is 0.5"),
        ({"min_others": 2}, "hyperband has no use for it"),
        ({"metric": "test/accuracy"}, "cannot be tested on it"),
    ],
)
def test_what_is_wrong_with_it_is_said(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_spec({**BASE, "scheduler": {**RULE, **change}})


def test_a_misspelt_name_is_refused_with_all_known_names() -> None:
    with pytest.raises(SpecError, match=r"scheduler\.name: is \"hyperbands\".*hyperband"):
        load_spec({**BASE, "scheduler": {**RULE, "name": "hyperbands"}})


def test_a_search_that_proposes_in_rounds_is_refused() -> None:
    search = {
        "name": "tpe",
        "max_trials": 4,
        "metric": "val/accuracy",
        "space": {"optimizer.lr": {"low": 0.1, "high": 1.0}},
    }
    with pytest.raises(SpecError, match=r"scheduler\.name: is \"hyperband\".*tpe"):
        load_spec({**BASE, "grid": {}, "search": search})


def test_a_metric_that_pausing_runs_do_not_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"val/acuracy, which run \w+ does not report"):
        run({**BASE, "scheduler": {**RULE, "metric": "val/acuracy", "mode": "max"}}, tmp_path / "out", local=True)


@pytest.fixture(scope="module")
def hyperband_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("banded") / "out"
    assert run(BASE, folder, local=True).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def study_without_scheduler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert run(WITHOUT, folder, local=True).exit_code == 0
    return folder


def statuses(folder: Path) -> dict[str, Status]:
    return {key: status for key, (status, _) in Store(RunFolder(folder)).statuses().items()}


def numbers(folder: Path) -> dict[tuple[str, int, str, str], float]:
    rows = Results(folder).metrics()
    return {(r.run_key, r.step, r.split, r.name): r.value for r in rows.itertuples()}


def test_paused_runs_resume_bit_equal_and_pruned_ones_keep_their_metrics(
    hyperband_study: Path, study_without_scheduler: Path
) -> None:
    found, expected = numbers(hyperband_study), numbers(study_without_scheduler)
    assert found.items() <= expected.items()
    final_statuses = statuses(hyperband_study)
    assert set(final_statuses.values()) == {Status.COMPLETED, Status.PRUNED}
    num_steps = max(step for _, step, *_ in expected)
    for key, status in final_statuses.items():
        last = max(step for run_key, step, *_ in found if run_key == key)
        assert (last == num_steps) == (status is Status.COMPLETED)
        assert last in {num_steps / 4, num_steps / 2, num_steps}
    attempts = Store(RunFolder(hyperband_study)).runs(latest=False).to_pandas().sort_values("attempt")
    for _, rows in attempts.groupby("run_key"):
        assert list(rows["attempt"]) == list(range(1, len(rows) + 1))
        assert set(rows["status"][:-1]) <= {"INTERRUPTED"}
        assert rows["device"].nunique() == 1


def test_the_best_are_promoted_with_all_their_seeds(hyperband_study: Path) -> None:
    runs = Results(hyperband_study).runs()
    rates = runs["spec_json"].str.extract(r'"lr":([0-9.e-]+)')[0].astype(float)
    assert set(runs.groupby(rates)["status"].nunique()) == {1}
    assert set(runs.loc[rates > 0.15, "status"]) == {"COMPLETED"}, "the best of the first bracket"
    assert assign_brackets(7, [4, 3, 3]) == [0, 1, 2, 0, 1, 2, 0]
    assert (runs["status"] == "PRUNED").sum() == 2 * (2 + 1), "two of three and one of two, with two seeds"


def test_a_second_call_repeats_nothing_and_pruned_runs_resume_on_request(
    hyperband_study: Path, study_without_scheduler: Path, tmp_path: Path
) -> None:
    before = Results(hyperband_study).runs()
    assert run(BASE, hyperband_study, local=True).runs().equals(before)
    folder = tmp_path / "out"
    run(BASE, folder, local=True)
    run(BASE, folder, local=True, only=frozenset([Status.PRUNED]))
    assert set(statuses(folder).values()) == {Status.COMPLETED}
    assert numbers(folder) == numbers(study_without_scheduler)


def test_a_study_that_is_killed_again_and_again_decides_as_one_that_is_not(
    hyperband_study: Path, tmp_path: Path
) -> None:
    for number in (3, 11, 17, 23, 29):
        with pytest.raises(KeyboardInterrupt):
            run(BASE, tmp_path / "out", local=True, display=KillingDisplay(number))
    assert run(BASE, tmp_path / "out", local=True).exit_code == 0
    assert statuses(tmp_path / "out") == statuses(hyperband_study)
    assert numbers(tmp_path / "out") == numbers(hyperband_study)
    folders = (tmp_path / "out", hyperband_study)
    (our_journal,), (expected_journal,) = ([*(f / "decisions").glob("*-rungs.jsonl")] for f in folders)
    assert our_journal.read_bytes() == expected_journal.read_bytes()


OTHERS: dict[str, dict[str, Any]] = {
    "distill": {
        "data": {"name": "digits", "max_train": 200, "max_test": 50},
        "model": {"name": "convnet", "width": 4, "depth": 2},
        "method": {"name": "dm", "ipc": 1, "iterations": 8, "real_batch": 6},
        "evaluation": {"epochs": 2, "networks": 1, "augment": ""},
        "evaluate_every": 2,
        "grid": {"method.lr": [1.0, 0.1, 0.01]},
    },
    "nodes": {
        "data": {"name": "block_model", "num_nodes": 200, "minority_fraction": 0.2},
        "minority": "rare",
        "method": "plain",
        "split": {"name": "drawn", "per_class": 10, "num_val": 50, "num_calib": 30, "num_test": 50},
        "budget": {"steps": 20, "evaluate_every": 5},
        "grid": {"optimizer.lr": [0.01, 0.001, 0.0001]},
    },
}


@pytest.mark.parametrize("kind", OTHERS)
def test_jobs_of_other_kinds_pause_and_resume_bit_equal(kind: str, tmp_path: Path) -> None:
    rule = {**RULE, "metric": "val/nll", "mode": "min", "grace": 0.5}
    spec = {"name": kind, "kind": kind, "seeds": 2, **OTHERS[kind]}
    assert run({**spec, "scheduler": rule}, tmp_path / "banded", local=True).exit_code == 0
    assert run(spec, tmp_path / "whole", local=True).exit_code == 0
    assert numbers(tmp_path / "banded").items() <= numbers(tmp_path / "whole").items()
    final_statuses = statuses(tmp_path / "banded")
    assert sorted(final_statuses.values()) == [Status.COMPLETED] * 4 + [Status.PRUNED] * 2
    attempts = Store(RunFolder(tmp_path / "banded")).runs(latest=False).to_pandas()
    paused = set(attempts.loc[attempts["status"] == "INTERRUPTED", "run_key"])
    assert len(paused) == 4, "two configurations paused, and one of them resumed"
    steps = Results(tmp_path / "banded").metrics().groupby("run_key", observed=True)["step"].max()
    for key, status in final_statuses.items():
        assert (steps[key] < steps.max()) == (status is Status.PRUNED)
