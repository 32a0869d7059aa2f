"""The command ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from benchmarks import training, widgets

BENCHMARKS = {**training.BENCHMARKS, **widgets.BENCHMARKS}


def main() -> int:
    """Run the named benchmarks, all if none is named; 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there is {', '.join(BENCHMARKS)}")
    missed = False
    for name in arguments.names or BENCHMARKS:
        result = BENCHMARKS[name]()
        missed |= not result.ok
        if arguments.json:
            row = {**asdict(result), "ratio": round(result.ratio, 3), "ok": result.ok}
            print(json.dumps(row), flush=True)
        else:
            unit = f"{result.unit:2}"
            print(
                f"{result.name:24} ours {result.ours_s:8.4f} {unit}  {result.peer} "
                f"{result.peer_version} {result.peer_s:8.4f} {unit}  ratio {result.ratio:5.2f} "
                f"(target {result.target})  {'ok' if result.ok else 'MISSED'}",
                flush=True,
            )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
