"""The worker process: hold the lease, drain the stream, run the jobs."""
