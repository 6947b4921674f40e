from seekr.scoring.cells import default_cells, wanted_cells


def test_up_to_six_tasks_are_scored_after_each_other():
    """Of six tasks 21 cells in place of 11; of more the square of their number is too dear to be a default."""
    assert [default_cells(tasks) for tasks in (1, 6, 7, 15)] == ["seen", "seen", "paper", "paper"]
    for tasks in (1, 2, 6, 7):
        assert len(wanted_cells("paper", tasks)) == 2 * tasks - 1
        assert len(wanted_cells("seen", tasks)) == tasks * (tasks + 1) // 2
        assert len(wanted_cells("all", tasks)) == tasks * (tasks + 1)
