"""`python -m toylib`: the command line of `toylib.engine.cli`."""

from toylib.engine.cli import main

raise SystemExit(main())
