"""The second door: jobs are leased, run, and settled."""
