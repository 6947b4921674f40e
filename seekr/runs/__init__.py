"""A run and its folder: spec, executed stage by stage, scored, read again."""
