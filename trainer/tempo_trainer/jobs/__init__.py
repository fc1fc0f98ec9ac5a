"""The work that the ledger orders: rounds, recalibrations, checks, and when each is due."""
