"""What a user says of a run: read, checked, and compared with what an earlier run was."""
