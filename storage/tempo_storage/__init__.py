"""What must last: rows in SQL, questions in a stream, adapters in directories."""
