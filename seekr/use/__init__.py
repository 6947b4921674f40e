"""From a run to its use: a stage exported, talked with, or scored on new rows. Nothing here writes into a run."""
