"""What the people on call see and do: probes, metrics, a dashboard and its API.

It reads the ledger and the queues' records through the same values as the command line, and acts
through the same requests; the worker itself does not know of it.
"""
