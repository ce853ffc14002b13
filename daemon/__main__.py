"""``python -m avff.daemon`` is ``avffd``."""

import sys

from avff.daemon.cli import main

if __name__ == "__main__":
    sys.exit(main())
