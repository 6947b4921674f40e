"""Who else answers test rows, and whether it can."""
