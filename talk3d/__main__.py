"""``python -m talk3d`` is ``talk3d``."""

import sys

from talk3d.cli import main

if __name__ == "__main__":
    sys.exit(main())
