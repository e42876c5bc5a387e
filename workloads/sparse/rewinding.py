"""Rounds of training and pruning within one budget: when each starts, and its place in the learning-rate schedule."""

from dataclasses import dataclass

from pruneyard.workloads.interfaces import RateSchedule


@dataclass(frozen=True)
class Rounds:
    """One training from the start, then `num` rounds that prune and train again from the rewinding point to the end.

    num: prunings.
    rewind_to: the rewinding point as a share of the first training, in [0, 1).

    With a first training of n steps, each round takes (1 - rewind_to) n of the budget, up to rounding to whole steps; so n is
    the budget over 1 + num (1 - rewind_to).
    """

    num: int
    rewind_to: float

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"rounds is {self.num}; it must be at least 1")
        if not 0 <= self.rewind_to < 1:
            raise ValueError(f"rewind_to is {self.rewind_to}; it must lie in [0, 1), a share of the first training")

    def starts(self, num_steps: int) -> tuple[int, ...]:
        """Returns the steps at which the rounds start, each by a pruning; a short budget may round several to one step."""
        again = 1 - self.rewind_to
        first = num_steps / (1 + self.num * again)
        return tuple(min(round(first * (1 + number * again)), num_steps - 1) for number in range(self.num))

    def rewinding_point(self, num_steps: int) -> int:
        """Returns the step of the first training before which the weights are those that rounds start from."""
        first = num_steps / (1 + self.num * (1 - self.rewind_to))
        return min(round(self.rewind_to * first), self.starts(num_steps)[0])

    def num_started(self, step: int, *, num_steps: int) -> int:
        """Returns how many rounds have started at this step, including one that starts here."""
        return sum(start <= step for start in self.starts(num_steps))

    def position(self, step: int, *, num_steps: int) -> tuple[int, int]:
        """Returns the step within its training, and the length of this training, both counted from the start of training.

        The step that starts a round prunes and has the place of the next one, which is the first that trains.
        """
        starts = self.starts(num_steps)
        number = self.num_started(step, num_steps=num_steps)
        if number == 0:
            return step, starts[0]
        begin = starts[number - 1]
        end = starts[number] if number < self.num else num_steps
        point = self.rewinding_point(num_steps)
        return point + max(0, step - begin - 1), point + max(1, end - begin - 1)


@dataclass(frozen=True)
class RewoundSchedule:
    """A learning-rate schedule that every round runs again from the rewinding point to its end."""

    rounds: Rounds
    schedule: RateSchedule

    def factor(self, step: int, num_steps: int) -> float:
        """Returns the factor at the step's place in its own training."""
        return self.schedule.factor(*self.rounds.position(step, num_steps=num_steps))
