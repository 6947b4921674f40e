"""Training on one task: transformers' Trainer with replay steps of their own between the task's steps."""
