"""`python -m seekr` is the command `seekr`, so that `accelerate launch -m seekr learn ...` works."""

import sys

from seekr.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
