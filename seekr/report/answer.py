"""What a reader wants to know first: what each method came to, what of it was forgotten and what was held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seekr.report.check_run import kept_and_lost
from seekr.report.estimate import Estimate, measured
from seekr.report.forgotten import Change, changes_over_seeds
from seekr.report.summary import MethodSummary, decimal


@dataclass(frozen=True, slots=True)
class MethodResult:
    """A method, of which `summary` holds the runs; `joint`: what joint training of the same tasks scores."""

    summary: MethodSummary
    performance: Estimate | None
    joint: Estimate | None
    changes: tuple[Change, ...]

    @property
    def score(self) -> str:
        """Such as "83.2 ± 1.1 of joint's 89.7"."""
        if self.performance is None:
            done = max(len(run.stages) for run in self.summary.runs)
            left = self.summary.runs[0].planned - done
            return f"not finished: {done} of {done + left} tasks are learned" if left > 0 else "not all scored"
        return str(self.performance) + (f" of joint's {decimal(self.joint.value)}" if self.joint else "")

    def __str__(self) -> str:
        """Such as "seekr 83.2 ± 1.1 of joint's 89.7; forgotten: sort 99 → 72; held: span, upper"."""
        return "; ".join(filter(None, (f"{self.summary.label} {self.score}", kept_and_lost(self.changes))))


def answers(summaries: Sequence[MethodSummary]) -> list[MethodResult]:
    """Of methods that learned the same tasks, the best first; joint, what they are measured by, only where it is alone.

    Raises InputError where an answer file is torn.
    """
    joint = next((summary for summary in summaries if summary.joint), None)
    reference = measured(joint, "overall_performance") if joint else None
    learners = [summary for summary in summaries if not summary.joint]
    found = []
    for summary in learners or summaries:
        lost = () if summary.joint or not summary.counted else tuple(changes_over_seeds(summary.counted))
        performance = measured(summary, "overall_performance")
        found.append(MethodResult(summary, performance, reference if learners else None, lost))
    return sorted(found, key=lambda answer: -answer.performance.value if answer.performance else 1.0)
