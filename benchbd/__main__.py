"""``python -m benchbd``."""

from benchbd.cli import main

raise SystemExit(main())
