"""When a task is due: intervals, cron, catch-up, policies. Pure: no clock, no I/O."""
