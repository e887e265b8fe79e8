"""What the people who work on the worker run by hand."""
