"""A run whose models are sharded once a task is trained is the run that it is where every device holds them whole.

Accelerate sets FSDP up on accelerators only: here the steps are those of plain data parallelism, and all that comes
after the last one, up to the scores, is as with FSDP.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import launches
import pytest
import torch
from safetensors.torch import load_file

from seekr import Run
from seekr.cli.main import main
from seekr.distributed.sharded import load_sharded
from seekr.runs import model_store, prepare

pytestmark = pytest.mark.thorough

TRAINING = launches.TRAINING | {"per_device_train_batch_size": 4}
LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
MORE: dict[str, dict[str, Any]] = {
    "seekr, averaged": {"method": launches.METHOD | {"average": 0.5}},
    "own answers, of an adapter": {
        "method": launches.METHOD | {"name": "on_policy_replay", "correct_from": 0.0, "attempts": 2, "average": 0.5},
        "lora": LORA,
    },
}


def learn(folder: Path, model: Path, data: Path, program: list[str], more: dict[str, Any]) -> Path:
    """The run of tasks a and b, and of a skill, on two processes."""
    folder.mkdir()
    config = launches.config_of(model, data, folder / "run", "ab", training=TRAINING, cells="all", **more)
    config["tasks"].insert(0, config["tasks"][0] | {"name": "skill", "learn": False, "metric": "likelihood"})
    path = launches.write(folder / "c.yaml", config)
    outcome = launches.learn(path, path, program=program)
    assert [status for status, _ in outcome] == [0, 0], outcome
    return folder / "run"


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if "lora" in more else ()) for kind, more in MORE.items()]
)
def test_the_same_run(kind: str, tiny_model_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    whole, parts = (
        learn(tmp_path / name, tiny_model_folder, data_folder, program, MORE[kind])
        for name, program in (("whole", ["-m", "seekr"]), ("parts", [__file__]))
    )
    # Of the skill its model; of each task the trained one and the one before it; of base, a and b to be scored.
    assert [(tmp_path / "parts" / f"loads-{rank}").read_text() for rank in range(2)] == ["." * (1 + 2 * 2 + 3)] * 2
    for one, two in zip(Run(whole).stages, Run(parts).stages, strict=True):
        assert two.heads == one.heads
        for name, expected in one.importance.items():
            torch.testing.assert_close(two.importance[name], expected, rtol=1e-4, atol=1e-7)
        assert one.memory is not None
        assert two.memory is not None
        assert two.memory.about["forms"] == one.memory.about["forms"]
        assert two.memory.about["facts"].keys() == one.memory.about["facts"].keys()
        for sample in range(len(one.memory)):
            logits = [memory.logits(sample).log_probs for memory in (one.memory, two.memory)]
            torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=2e-3)  # kept in float16
    written = sorted(path.relative_to(whole) for path in whole.glob("stages/*/model/*"))
    assert written == sorted(path.relative_to(parts) for path in parts.glob("stages/*/model/*"))
    assert len({path.parent for path in written}) == 2
    for path in written:
        if path.suffix == ".safetensors":
            expected, found = load_file(whole / path), load_file(parts / path)
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    assert not list(parts.glob("working/*"))
    names = sorted(path.name for path in (whole / "predictions").iterdir())
    assert names == sorted(path.name for path in (parts / "predictions").iterdir())
    for name in names:
        lines = [(run / "predictions" / name).read_text().splitlines() for run in (whole, parts)]
        one, two = ([json.loads(line) for line in some] for some in lines)
        for rows in zip(one, two, strict=True):
            sums = [row.pop("log_likelihood", 0.0) for row in rows]  # of the skill alone
            assert sums[1] == pytest.approx(sums[0], rel=1e-5)
        assert one == two


def counted(*asked: Any) -> Any:
    """As `load_sharded`, counted in a file next to the configuration."""
    with (Path(sys.argv[2]).parent / f"loads-{os.environ['RANK']}").open("a") as file:
        file.write(".")
    return load_sharded(*asked)


if __name__ == "__main__":
    prepare.sharding = lambda training: ["FSDP"]  # type: ignore[attr-defined]
    model_store.load_sharded = counted  # type: ignore[attr-defined]
    sys.exit(main())
