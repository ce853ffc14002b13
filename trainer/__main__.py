"""``python -m avff.trainer`` is ``avff-train``."""

from avff.trainer.cli import main

raise SystemExit(main())
