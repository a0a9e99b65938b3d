"""Time and memory of reading and splitting a table of a million images.

    python tests/benchmarks/tables.py [--rows 1000000] [--folder DIR]

Empty files are made first, a thousand a folder, and removed at the end. Seconds are CPU time, all of one thread, from
the CSV to the split, with patients that stay together and strata of five classes; each table in a process of its own.
In "wrong", every name is misspelled.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLASSES, IMAGES_A_PATIENT, FILES_A_FOLDER = 5, 4, 1000


def make(root: Path, rows: int) -> None:
    """Write the files, a table of them, and one of other names."""
    with (root / "table.csv").open("w") as table, (root / "wrong.csv").open("w") as wrong:
        for file in (table, wrong):
            file.write("image,class,patient\n")
        for row in range(rows):
            folder, patient = f"{row // FILES_A_FOLDER:05d}", row // IMAGES_A_PATIENT
            if row % FILES_A_FOLDER == 0:
                (root / "images" / folder).mkdir(parents=True)
            (root / "images" / folder / f"image_{row:07d}.png").touch()
            facts = f"class_{patient % CLASSES},patient_{patient:07d}\n"
            table.write(f"{folder}/image_{row:07d}.png,{facts}")
            wrong.write(f"{folder}/imaeg_{row:07d}.png,{facts}")


def measure(root: Path, kind: str, table: str) -> None:
    """Read and split one table, and print seconds and peak memory."""
    from wsidata.splits.make import make_splits
    from wsidata.splits.split_file import apply_splits, load_splits, save_splits
    from wsidata.tables.label_table import read_table
    from wsidata.tables.photo_table import read_photo_table
    from wsidata.tables.text_table import TableError

    start = time.process_time()
    read = read_photo_table if kind == "photos" else read_table
    try:
        labels = read(root / table, root / "images", group_column="patient")
    except TableError:  # as it should, if all names are wrong
        seconds = [time.process_time() - start, 0.0, 0.0]
    else:
        seconds = [time.process_time() - start]
        frame = make_splits(labels.frame, val_fraction=0.2, test_fraction=0.1, group_column="group")
        seconds.append(time.process_time() - start - seconds[0])
        save_splits(frame, root / "split.csv")
        again = apply_splits(labels.frame, load_splits(root / "split.csv"))
        assert again["split"].equals(frame["split"])
        seconds.append(time.process_time() - start - sum(seconds))
    scale = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9
    columns = " | ".join(f"{one:.1f} s" if one else "-" for one in seconds)
    print(f"| {kind}, {Path(table).stem} | {columns} | {sum(seconds):.1f} s | {peak:.2f} GB |", flush=True)


def main() -> None:
    """Make the files, measure each reader in its own process, and remove the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the files are made (default: a temporary folder)")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(Path(options.measure[0]), *options.measure[1:])
        return
    root = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        make(root, options.rows)
        print(
            "| images, table | read | split | saved and applied | together | peak memory |\n|---|---|---|---|---|---|"
        )
        for kind in ("photos", "slides"):
            for table in ("table.csv", "wrong.csv"):
                subprocess.run([sys.executable, __file__, "--measure", str(root), kind, table], check=True)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
