"""Which adapter answers a request: names, the serving pointer, and the check of what is served."""
