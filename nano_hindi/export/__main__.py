"""`python -m nano_hindi.export`: the command of `command`."""

from __future__ import annotations

import sys

from nano_hindi.export.command import main

if __name__ == "__main__":
    sys.exit(main())
