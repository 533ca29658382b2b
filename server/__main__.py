"""`python -m server` is the same program as the script `playhead`."""

from server.cli import main

raise SystemExit(main())
