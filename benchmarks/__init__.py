"""Measurements, run by hand: ``python -m benchmarks``. What counts are ratios within one run."""
