"""The worker process: hold the lease, read the stream, run the jobs."""
