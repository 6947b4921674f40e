"""Answers to numbers, and numbers to what was kept and what was lost."""
