"""What the processes of one launch say to each other, and what lies on which."""
