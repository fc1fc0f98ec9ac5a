"""The command `tempo`; without the extra it says what to install."""

import sys


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        from tempo_client.cli.commands import app
    except ImportError as error:
        if (error.name or "").startswith("tempo_"):
            raise
        print(f"tempo: {error.name} is missing; pip install 'vllm-tempo[cli]'", file=sys.stderr)
        return 1
    app()
    return 0
