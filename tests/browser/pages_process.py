"""`workbench pages` for the harness, which gives every program a data directory; pages have none."""

import sys

from workbench.__main__ import main

if __name__ == "__main__":
    words = sys.argv[1:]
    at = words.index("--data-dir")
    sys.exit(main(["pages", *words[:at], *words[at + 2:]]))
