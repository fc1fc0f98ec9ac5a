"""Run the command line: `python -m tempo_client.cli`."""

import sys

from tempo_client.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
