"""The command ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from benchmarks import Result, autoregressive, flows, training, vae, widgets
from benchmarks.record import record

BENCHMARKS = {
    **flows.BENCHMARKS,
    **autoregressive.BENCHMARKS,
    **widgets.BENCHMARKS,
    **training.BENCHMARKS,
    **vae.BENCHMARKS,
}


def main() -> int:
    """Run the named benchmarks, all if none is named; 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--record", action="store_true", help="put the table into the book")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there is {', '.join(BENCHMARKS)}")
    results: list[Result] = []
    for name in arguments.names or BENCHMARKS:
        for result in BENCHMARKS[name]():
            results.append(result)
            if arguments.json:
                row = {**asdict(result), "ratio": round(result.ratio, 3), "ok": result.ok}
                print(json.dumps(row), flush=True)
            else:
                unit = f"{result.unit:2}"
                print(
                    f"{result.name:24} ours {result.ours_s:8.4f} {unit}  {result.peer} "
                    f"{result.peer_version} {result.peer_s:8.4f} {unit}  "
                    f"ratio {result.ratio:6.2f} (target {result.target})  "
                    f"{'ok' if result.ok else 'MISSED'}",
                    flush=True,
                )
    if arguments.record:
        record(results)
    return int(not all(result.ok for result in results))


if __name__ == "__main__":
    sys.exit(main())
