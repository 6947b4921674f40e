"""A run and its folder: prepared, executed stage by stage, scored, read again."""
