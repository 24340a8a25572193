"""The command `python -m app.sandbox`: reads the options, serves, and prints the address."""

import os

# Read before the imports below, which take so long that the parent could die meanwhile.
_PARENT_PID = os.getppid()

import argparse  # noqa: E402

from app.sandbox.server import serve  # noqa: E402
from app.sandbox.state import Options  # noqa: E402
from app.sandbox.wsgi import create_app  # noqa: E402


def main() -> None:
    """Runs the command until a signal ends it."""
    defaults = Options()
    parser = argparse.ArgumentParser(prog="python -m app.sandbox", description="A local stand-in for providers.")
    parser.add_argument("--port", type=int, default=0, help="0 (default): the system chooses a free one")
    parser.add_argument("--pace-ms", type=float, default=defaults.pace_s * 1000, help="between two events")
    parser.add_argument("--featherless-models", type=int, default=defaults.featherless_models)
    parser.add_argument("--die-with-parent", action="store_true", help="end when the starting process ends")
    args = parser.parse_args()
    options = Options(args.pace_ms / 1000, args.featherless_models)
    parent_pid = _PARENT_PID if args.die_with_parent else None
    serve(create_app(options), args.port, parent_pid, _print_address)


def _print_address(port: int) -> None:
    print(f"sandbox listening on http://127.0.0.1:{port}", flush=True)


if __name__ == "__main__":
    main()
