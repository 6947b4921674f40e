"""Data in the formats that people keep it in, as examples and as token ids."""
