"""The engines that carry jobs: implementations of `worker.ports.JobQueue` and `JobRecords`."""
