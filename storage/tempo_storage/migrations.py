"""The old name of `tempo_storage.ledger.migrations`, for compose files of version 0.1."""

from tempo_storage.ledger.migrations import main

if __name__ == "__main__":
    main()
