"""Where the ledger is kept: implementations of `worker.ports`, one a file."""
