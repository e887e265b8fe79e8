"""On-demand work as values: a job, its options and parameters, and what becomes of it."""
