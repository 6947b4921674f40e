"""A memory without some of its samples: their tokens and all that the teacher said of them are gone."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from seekr.disk.files import PRIVATE, write_json
from seekr.disk.tensors import Tensors
from seekr.memory.reader import Memory
from seekr.memory.writer import write_samples, write_shard


def write_without(memory: Memory, gone: Collection[int], folder: Path) -> None:
    """Writes into a new `folder` what is left of a memory once the samples `gone` are taken out.

    Those that stay keep their order and are counted from 0 again. Measured facts stay as they were measured.
    """
    folder.mkdir(PRIVATE, parents=True)
    places = {old: new for new, old in enumerate(i for i in range(len(memory)) if i not in gone)}
    shards = []
    for shard in memory.about["shards"]:
        own = [sample for sample in range(*shard["samples"]) if sample in places]
        if not own:
            continue
        file = Tensors(memory.folder / shard["file"])
        split = [(key, *key.split("/", 1)) for key in file.keys()]  # noqa: SIM118 - not a dict
        tensors = {
            f"{places[int(sample)]}/{name}": file.get_tensor(key)
            for key, sample, name in split
            if int(sample) in places
        }
        first, end = places[own[0]], places[own[-1]] + 1
        shards.append(write_shard(folder, tensors, first, end, encrypt=memory.encrypted))
    rows = [memory.encoded(sample) for sample in places]
    digest = write_samples(folder, [(row.input_ids, row.labels) for row in rows], encrypt=memory.encrypted)
    left = {key: [memory.about[key][old] for old in places] for key in ("answer_tokens", "forms")}
    about = memory.about | left | {"shards": shards, "samples": len(places), "samples_sha256": digest}
    write_json(folder / "memory.json", about)
