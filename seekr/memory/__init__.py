"""What is kept of past tasks: written once a task, read in every replay step."""
