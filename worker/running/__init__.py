"""The runner, behind all doors: runs one thing, within its bounds, to a recorded outcome."""
