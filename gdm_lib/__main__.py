"""``python -m gdm_lib`` is the command ``gdm``."""

from gdm_lib.cli import main

raise SystemExit(main())
