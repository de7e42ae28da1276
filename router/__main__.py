"""`python -m router`: the command `serve`, unless another is named."""

from __future__ import annotations

import sys

from router.cli import COMMANDS, main

if __name__ == "__main__":
    words = sys.argv[1:]
    named = bool(words) and (words[0] in COMMANDS or words[0] in ("--version", "-V"))
    sys.exit(main(words if named else ["serve", *words]))
