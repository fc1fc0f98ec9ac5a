"""Keep users' questions: what is kept of a request, and the files in which it waits."""
