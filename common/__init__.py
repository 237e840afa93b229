"""What the Console and its Defenders share. Imports neither side."""
