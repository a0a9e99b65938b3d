"""Reads thousands of damaged files, each within 25 s and 4 GB.

Files that come to anything else but right pixels, the reference decoder's pixels or a named error are kept.

make fuzz
make fuzz FUZZ_ARGS="--files 500 --seeds 7 8"
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from fuzz.kinds import KINDS
from fuzz.worker import kind_of, work, write_damaged, write_intact

SECONDS = 25
STARTING_SECONDS = 120
GOOD = ("right", "reference", "part", "refused")


class Reader:
    """A process that reads files; it is started again after a crash or a hang."""

    def __init__(self, intact: Path, folder: Path, seed: int) -> None:
        self._places = intact, folder, seed
        self._process: BaseProcess | None = None
        self._connection: Connection

    def outcome(self, number: int) -> str:
        """What comes of one damaged file."""
        seconds = SECONDS
        if self._process is None:
            seconds += STARTING_SECONDS
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=work, args=(theirs, *self._places), daemon=True)
            self._process.start()
            theirs.close()
        self._connection.send(number)
        try:
            if self._connection.poll(seconds):
                return str(self._connection.recv())
            answer = f"hang: more than {seconds} s"
        except (EOFError, OSError):
            self._process.join(10)
            answer = f"crash: exit code {self._process.exitcode}"
        self.stop()
        return answer

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
        self._process = None


def run(files: int, seeds: list[int], kept: Path) -> list[str]:
    """What went wrong, a line for each file."""
    faults, counts = [], {kind.name: Counter[str]() for kind in KINDS}
    with tempfile.TemporaryDirectory() as place:
        intact, folder = Path(place, "intact"), Path(place, "damaged")
        write_intact(intact)
        for seed in seeds:
            reader, started = Reader(intact, folder, seed), time.monotonic()
            for number in range(files // len(seeds)):
                answer = reader.outcome(number)
                if answer.startswith("hang"):  # or the machine was busy
                    answer = reader.outcome(number)
                name = kind_of(number).name
                counts[name][answer if answer in GOOD else "FAULT"] += 1
                if answer not in GOOD:
                    target = kept / f"{seed}-{number}"
                    write_damaged(intact, target, seed, number)
                    faults.append(f"{name}, seed {seed}, number {number}: {answer}  ({target})")
                    print(faults[-1], flush=True)
                if number % 500 == 499:
                    print(f"seed {seed}: {number + 1} files in {time.monotonic() - started:.0f} s", flush=True)
            reader.stop()
    for name, found in counts.items():
        print(f"{name:22} " + "  ".join(f"{what} {count}" for what, count in sorted(found.items())))
    return faults


def main() -> int:
    """0 if nothing else came of any file but pixels or a named error."""
    parser = argparse.ArgumentParser(prog="fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=5000, help="how many, over all seeds and kinds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--kept", type=Path, default=Path("runs/fuzz"), help="folder for files that went wrong")
    args = parser.parse_args()
    shutil.rmtree(args.kept, ignore_errors=True)
    faults = run(args.files, args.seeds, args.kept)
    print(f"{len(faults)} of {args.files} files went wrong." if faults else f"{args.files} files: nothing went wrong.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
