"""`python -m server`: the API and the streams, without pages."""

import sys
from collections.abc import Sequence

from engine.errors import Invalid
from server.config import Config


def main(argv: Sequence[str] | None = None) -> int:
    try:
        config = Config.load(sys.argv[1:] if argv is None else argv, api_only=True)
    except Invalid as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from server.app import run

    return run(config)


if __name__ == "__main__":
    sys.exit(main())
