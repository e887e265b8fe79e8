"""What can be seen of a worker from outside: log, traces, heartbeat, watchdog."""
