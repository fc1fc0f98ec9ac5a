"""The store: rows in SQL, questions in a stream, adapters in directories."""
