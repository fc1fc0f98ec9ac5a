"""Serving: which adapter answers a request, the serving pointer, and the check of an adapter."""
