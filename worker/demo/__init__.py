"""A reference Data API: the service that a worker talks to, small and complete.

It honours the whole contract, fails on request, and writes down every effect it had, so that a test
can say "each order was processed exactly once". Needs the `demo` extra. To read it, begin with
`contract` (what the service does), then `endpoint` (what happens to every call), `keys`
(idempotency) and `faults` (what can go wrong).
"""
