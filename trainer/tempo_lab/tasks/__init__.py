"""Small tasks on which learning shows on a CPU, and the base models that they start from."""
