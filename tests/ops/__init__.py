"""The ops part: probes, locks, API, page."""
