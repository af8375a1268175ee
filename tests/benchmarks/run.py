"""Run the benchmarks that this machine can, one after the other, and write results.json and results.md.

python tests/benchmarks/run.py                    # all
python tests/benchmarks/run.py --only memory      # some; the other rows and other machines' stay
python tests/benchmarks/run.py --quick            # a few images each: to try the scripts, figures mean nothing
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ALL = (
    "prefix_speed",
    "training_speed",
    "fastai_peer",
    "finetune_speed",
    "gpu_speed",
    "audit_speed",
    "names_speed",
    "shard_speed",
    "memory",
    "cost_against_size",
)


def main() -> int:
    """Run the chosen ones, each in a process of its own; returns 1 where one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=ALL, default=ALL)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--list", action="store_true", help="name them and stop")
    parser.add_argument(
        "--out", type=Path, default=FOLDER, help="where results.json and results.md go"
    )
    args = parser.parse_args()
    if args.list:
        print(*ALL, sep="\n")
        return 0
    failed = [name for name in args.only if not measure(name, args.quick, args.out)]
    print((args.out / "results.md").read_text() if (args.out / "results.md").exists() else "")
    return 1 if failed else 0


def measure(name: str, quick: bool, out: Path) -> bool:
    """Run one script and put its rows into the results; says what went wrong."""
    started = time.perf_counter()
    code = (
        f"import json, {name}, common; "
        f"rows = [row.to_dict() for row in {name}.run({quick})]; "
        "print('RESULT' + json.dumps({'machine': common.machine_facts(), 'rows': rows}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not found:
        print(f"{name} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
        return False
    print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    write(out, name, quick, json.loads(found[0].removeprefix("RESULT")))
    return True


def write(out: Path, name: str, quick: bool, found: dict) -> None:
    """Put the rows of one script in the place of those that the same kind of machine gave before."""
    file = out / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    kind = "{device}, {cores} cores".format(**found["machine"])
    here = results.get(kind, {}) | {name: {"quick": quick, **found}}
    results[kind] = {key: here[key] for key in ALL if key in here}
    file.write_text(json.dumps(results, indent=1) + "\n")
    tables = [f"## {kind}\n\n{table(parts)}" for kind, parts in results.items()]
    (out / "results.md").write_text("\n".join(["# Benchmarks\n", *tables]))


def table(results: dict) -> str:
    """The results of one kind of machine as a table for people."""
    lines = [
        "| what | measured | goal | met | at the machine's rate of matrix products |",
        "|---|---|---|---|---|",
    ]
    for part in results.values():
        for row in part["rows"]:
            sign = "at most " if row["smaller"] else ""
            value = "" if row["value"] is None else f"{row['value']:,.3g} {row['unit']}"
            met = {True: "yes", False: "no", None: row["skipped"]}[row["met"]]
            most = f"{row['ceiling']:.3g} times" if row.get("ceiling") else ""
            lines.append(
                f"| {row['what']}{' (quick)' if part['quick'] else ''} | {value} | {sign}{row['goal']:,} | {met} "
                f"| {most} |"
            )
    machines = {
        f"{part['machine']['precision']}, torch {part['machine']['torch']}, {part['machine']['date']}"
        for part in results.values()
    }
    return "\n".join(lines) + "\n\n" + "\n".join(sorted(machines)) + "\n"


if __name__ == "__main__":
    sys.exit(main())
