"""`python -m hf_meta_adapters` is the command `hf-meta-adapters`."""

import sys

from hf_meta_adapters.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
