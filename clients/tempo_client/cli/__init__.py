"""The command line `tempo`."""
