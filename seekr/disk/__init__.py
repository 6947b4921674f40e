"""What is on the disk: whole files, their hashes, and what is encrypted."""
