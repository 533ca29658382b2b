"""`python -m playhead.server` is the same program as the script `playhead`."""

from playhead.server.commands.cli import main

raise SystemExit(main())
