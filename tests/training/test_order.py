"""The plan of optimizer steps: what the rule says, and that it is a function of seed, task and epoch alone."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seekr.training.order import Step, StepPlan, quotas, split, task_seed

plans = st.builds(
    StepPlan,
    task_rows=st.integers(1, 60),
    memory_sizes=st.lists(st.integers(0, 25), max_size=4).map(tuple),
    batch_rows=st.integers(1, 17),
    seed=st.integers(0, 5),
    task=st.integers(0, 4),
)
"""By the rule of the paper: every kept row once an epoch."""


@given(plans, st.integers(0, 3))
def test_every_row_once_an_epoch_and_no_step_of_both_kinds(plan: StepPlan, epoch: int) -> None:
    steps = plan.epoch(epoch)
    wanted = [(-1, i) for i in range(plan.task_rows)]
    wanted += [(m, i) for m, size in enumerate(plan.memory_sizes) for i in range(size)]
    assert Counter(row for step in steps for row in step.rows) == Counter(wanted)
    assert all((step.kind == "task") == (memory < 0) for step in steps for memory, _ in step.rows)
    assert all(1 <= len(step.rows) <= plan.batch_rows for step in steps)
    assert [step.kind for step in steps] == list(plan.kinds)
    assert len(steps) == len(plan)


@given(plans)
def test_replay_steps_come_where_the_rule_puts_them(plan: StepPlan) -> None:
    task_steps, replay_steps = (
        ceil(plan.task_rows / plan.batch_rows),
        ceil(sum(plan.memory_sizes) / plan.batch_rows),
    )
    assert (plan.task_steps, plan.replay_steps) == (task_steps, replay_steps)
    before, task_steps_seen = [], 0
    for kind in plan.kinds:
        if kind == "task":
            task_steps_seen += 1
        else:
            before.append(task_steps_seen + 1)
    assert before == [max(1, (r * task_steps) // replay_steps) for r in range(1, replay_steps + 1)]


def test_known_orders() -> None:
    def kinds(n: int, m: int, rows: int) -> str:
        return "".join(kind[0] for kind in StepPlan(n, (m,), rows, 0, 0).kinds)

    assert kinds(8, 2, 1) == "tttrttttrt"
    assert kinds(3, 0, 1) == "ttt"
    assert kinds(10, 1, 4) == "ttrt"  # fewer kept samples than rows in a step
    assert kinds(2, 5, 1) == "rrrrtrt"  # more replay steps than task steps


@given(plans, st.integers(0, 3))
def test_order_is_a_function_of_seed_task_and_epoch(plan: StepPlan, epoch: int) -> None:
    again = StepPlan(plan.task_rows, plan.memory_sizes, plan.batch_rows, plan.seed, plan.task)
    again.epoch(epoch + 1)  # asking for another epoch first changes nothing
    assert plan.epoch(epoch) == again.epoch(epoch)


@given(plans, st.integers(1, 6))
def test_passes_follow_each_other_and_cost_no_more_than_the_task(plan: StepPlan, passes: int) -> None:
    more = replace(plan, replay_passes=passes)
    assert more.replay_steps == min(passes * plan.replay_steps, plan.task_steps)
    assert len(more) <= 2 * plan.task_steps
    replayed = [step.rows for epoch in range(4) for step in more.epoch(epoch) if step.kind == "replay"]
    # The steps of pass n are those of the paper's epoch n, whichever epochs they come in.
    once = [step.rows for epoch in range(4 * passes) for step in plan.epoch(epoch) if step.kind == "replay"]
    assert replayed == once[: len(replayed)]
    assert [s for s in more.epoch(2) if s.kind == "task"] == [s for s in plan.epoch(2) if s.kind == "task"]


def test_two_hundred_tasks_cost_twice_the_task_itself() -> None:
    plan = StepPlan(1000, (10,) * 199, 16, 0, 199, replay_passes=4)
    assert (plan.task_steps, plan.pass_steps, plan.replay_steps) == (63, 125, 63)
    assert StepPlan(1000, (10,) * 5, 16, 0, 5, replay_passes=4).replay_steps == 16
    assert len(StepPlan(1000, (10,) * 199, 16, 0, 199)) == 63 + 125  # the paper's rule is bounded by nothing


def test_the_papers_rule_draws_what_it_always_drew() -> None:
    drawn = np.random.default_rng([3, 2, 1, 1]).permutation(7)
    rows = [step.rows for step in StepPlan(40, (7,), 4, 3, 2).epoch(1) if step.kind == "replay"]
    assert rows == [tuple((0, int(i)) for i in drawn[:4]), tuple((0, int(i)) for i in drawn[4:])]


@pytest.mark.parametrize("changed", [{"seed": 1}, {"task": 1}, {"epoch": 1}])
def test_order_changes_with_each_of_them(changed: dict[str, int]) -> None:
    def order(seed: int = 0, task: int = 0, epoch: int = 0) -> list[Step]:
        return StepPlan(40, (40,), 4, seed, task).epoch(epoch)

    for kind in ("task", "replay"):
        assert [s for s in order() if s.kind == kind] != [s for s in order(**changed) if s.kind == kind]


def test_what_is_replayed_does_not_move_the_tasks_rows() -> None:
    alone = StepPlan(40, (), 4, 0, 2).epoch(1)
    beside = [step for step in StepPlan(40, (7, 9), 4, 0, 2).epoch(1) if step.kind == "task"]
    assert alone == beside


@given(plans)
def test_steps_of_a_kind_are_counted_over_epochs(plan: StepPlan) -> None:
    kinds = list(plan.kinds) * 3
    for step, kind in enumerate(kinds):
        assert plan.kind_of(step) == (kind, kinds[:step].count(kind))


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=24),
    accumulation=st.integers(1, 5),
    processes=st.integers(1, 4),
)
def test_split_spreads_a_step_evenly(lengths: list[int], accumulation: int, processes: int) -> None:
    step = Step("task", tuple((-1, i) for i in range(len(lengths))))
    slots = split(step, lambda row: lengths[row[1]], accumulation=accumulation, processes=processes)
    assert [len(micro) for micro in slots] == [processes] * accumulation
    flat = [slot for micro in slots for slot in micro]
    counted = [slot for slot in flat if not slot.filler]
    assert Counter(row for slot in counted for row in slot.rows) == Counter(step.rows)
    sizes = [0 if slot.filler else len(slot.rows) for slot in flat]
    assert max(sizes) - min(sizes) <= 1
    assert not flat[0].filler
    for slot in flat:
        if slot.filler:
            assert [lengths[i] for _, i in slot.rows] == [min(lengths)]


def test_task_seed_differs_by_seed_task_and_process() -> None:
    seeds = [task_seed(seed, task, process) for seed in range(3) for task in range(3) for process in range(2)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert task_seed(1, 2) == task_seed(1, 2, 0)


@given(plans, st.integers(1, 120), st.none() | st.integers(1, 4))
def test_a_limit_shares_replay_out_evenly_and_leaves_the_task_as_it_is(
    plan: StepPlan, limit: int, passes: int | None
) -> None:
    plan = replace(plan, replay_passes=passes)
    limited, everything = replace(plan, replay_limit=limit), sum(plan.memory_sizes)
    assert len(limited.kept) == min(limit, everything)
    assert set(limited.kept) <= set(plan.kept)
    assert limited.kept == sorted(set(limited.kept))
    if limit >= everything:
        assert [limited.epoch(epoch) for epoch in range(3)] == [plan.epoch(epoch) for epoch in range(3)]
    shares = Counter(memory for memory, _ in limited.kept)
    for one, size in enumerate(plan.memory_sizes):
        # Fewer than another by more than what cannot be shared out: that is all there was.
        assert shares[one] == size or shares[one] >= max(shares.values(), default=0) - 1
    once = [row for rows in islice(limited.replayed(0), limited.pass_steps) for row in rows]
    assert sorted(once) == limited.kept
    for epoch in range(2):
        ours, theirs = ([s for s in it.epoch(epoch) if s.kind == "task"] for it in (limited, plan))
        assert ours == theirs


def test_known_quotas() -> None:
    def of(sizes: list[int], limit: int) -> list[int]:
        return sorted(quotas(sizes, limit, np.random.default_rng(0)))

    assert of([10, 10, 10], 12) == [4, 4, 4]
    assert of([1, 10, 10], 12) == [1, 5, 6]
    assert of([0, 2, 100, 100], 50) == [0, 2, 24, 24]
    assert of([5] * 7, 3) == [0, 0, 0, 0, 1, 1, 1]
    assert of([10], 1) == [1]


def test_under_a_limit_every_row_has_its_turn_in_some_task() -> None:
    plans = [StepPlan(8, (3,) * 10, 4, 0, task, replay_limit=5) for task in range(60)]
    assert {row for plan in plans for row in plan.kept} == {(m, i) for m in range(10) for i in range(3)}
    assert all(plan.kept == StepPlan(8, (3,) * 10, 4, 0, plan.task, replay_limit=5).kept for plan in plans)
