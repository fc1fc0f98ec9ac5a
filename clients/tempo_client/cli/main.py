"""Start the command `tempo`; the commands are in `commands.py`."""

import sys


def main() -> int:
    """Run the command line and return its exit code.

    Without the packages of the extra `cli`, print how to install them and return 1.
    """
    try:
        from tempo_client.cli.commands import app
    except ImportError as error:
        if (error.name or "").startswith("tempo_"):
            raise  # a defect of ours, not a missing package
        print(f"tempo: {error.name} is missing; pip install 'vllm-tempo[cli]'", file=sys.stderr)
        return 1
    app()
    return 0
