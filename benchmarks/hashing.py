"""What it costs to look at a file's hash, beside reading it: from the disk, and where it still is in memory.

    python benchmarks/hashing.py FILE --json benchmarks/results/hashing.json

FILE is a large one, such as the weights of a model. A turn reads it and hashes it, in changing order, each after the
system was told to forget it and once more while it has it. Linux alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from seekr.disk import files
from seekr.disk.files import file_digest, write_json

PLACES = ("disk", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    for turn in range(arguments.turns):
        for place in PLACES:
            for work in (read, digest) if turn % 2 else (digest, read):
                seconds.setdefault(f"{work.__name__} from {place}", []).append(
                    timed(work, arguments.file, forgotten=place == "disk")
                )
    result = {
        "bytes": arguments.file.stat().st_size,
        "turns": arguments.turns,
        "median seconds": {name: round(statistics.median(found), 3) for name, found in seconds.items()},
        "hash over read, median of the turns": {
            place: round(
                statistics.median(map(ratio, *(seconds[f"{work} from {place}"] for work in ("digest", "read")))), 2
            )
            for place in PLACES
        },
        "seconds": {name: [round(second, 3) for second in found] for name, found in seconds.items()},
    }
    write_json(arguments.json, result)
    print(result["median seconds"], result["hash over read, median of the turns"])


def ratio(one: float, other: float) -> float:
    return one / other


def read(path: Path) -> None:
    buffer = bytearray(1 << 18)  # what hashlib reads at once
    with path.open("rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass


def digest(path: Path) -> None:
    files._DIGESTS.clear()  # a process hashes a file once
    file_digest(path)


def timed(work: Callable[[Path], None], path: Path, *, forgotten: bool) -> float:
    """Seconds of `work`, with the file on the disk alone or in memory too."""
    if forgotten:
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    else:
        read(path)
    start = time.perf_counter()
    work(path)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
