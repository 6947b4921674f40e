"""Looks for files that end in a traceback or a hang, led by which lines of seekr they reach (atheris, libFuzzer).

    pip install atheris
    python benchmarks/fuzz_by_coverage.py scores.json --seconds 300 --folder FOLDER

The kinds of files, and what reads them, are those of `tests/helpers/small_readers.py`. What breaks a reader is left in
FOLDER; put into `tests/corpus/KIND/` it is a test.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/helpers"))
with atheris.instrument_imports(include=["seekr.config", "seekr.data", "seekr.disk", "seekr.memory", "seekr.runs"]):
    from small_readers import WHOLE, make_place, use


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(WHOLE))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    place = make_place(arguments.folder / "place")
    corpus = arguments.folder / "corpus" / arguments.kind.replace("/", "--")
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "whole").write_bytes(WHOLE[arguments.kind])

    def one(content: bytes) -> None:
        (place / arguments.kind).write_bytes(content)
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            use(place, arguments.kind)

    options = ["-timeout=20", f"-max_total_time={arguments.seconds}", f"-artifact_prefix={arguments.folder}/"]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
