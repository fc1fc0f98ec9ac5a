"""The command `tempo`."""
