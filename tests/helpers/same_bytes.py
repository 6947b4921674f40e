"""Do two versions of seekr make the same bytes? Five configurations are learned and what they leave is hashed.

    python tests/helpers/same_bytes.py FOLDER --json before.json      # in a checkout of the version before
    python tests/helpers/same_bytes.py FOLDER --against before.json   # in the version after; exit 1 where they differ

What is compared: weights, memory, importance, heads, scores, predictions and log (without its times) of every stage.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_TRAINING = {"learning_rate": 0.002, "per_device_train_batch_size": 4, "num_train_epochs": 1, "use_cpu": True}
_LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
_KEPT = {"replay_ratio": 0.1, "query_budget": 8}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "seekr-full": {"method": {"name": "seekr", "head_budget": 4, **_KEPT}},
    "seekr-lora": {"method": {"name": "seekr", "head_budget": 4, **_KEPT}, "lora": _LORA},
    "derpp-resumed": {"method": {"name": "derpp", "replay_ratio": 0.1}},
    "on_policy_replay-two-processes": {"method": {"name": "on_policy_replay", "replay_ratio": 0.1}},
    "olora": {"method": {"name": "olora"}, "lora": _LORA},
}
_TIMES = {"seconds", "time", "started", "finished"}
_OF_THE_PLACE = {"answered_by", "sha256"}  # in scores.json: hashes of adapters, which name where their base lies
_OF_THE_MACHINE = {".lock", "run.json", "manifest.json"}  # versions, dates and places, and digests of those


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the runs are written; emptied of nothing")
    parser.add_argument("--json", type=Path, help="write what was found")
    parser.add_argument("--against", type=Path, help="what another version wrote with --json")
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    arguments = parser.parse_args()
    found = {}
    for name in arguments.only:
        learn(name, arguments.folder / name)
        found[name] = contents(arguments.folder / name / "run")
        print(f"{name}: {len(found[name])} files", file=sys.stderr)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1, sort_keys=True))
    if arguments.against:
        wrong = differences(json.loads(arguments.against.read_text()), found)
        print("\n".join(wrong) or "the same bytes")
        sys.exit(bool(wrong))


def learn(name: str, folder: Path) -> None:
    """Three tasks of the package's own, on its own model; stopped once and gone on with where the name says so."""
    folder.mkdir(parents=True)
    config = folder / "config.json"
    config.write_text(json.dumps({**_described(folder), **CONFIGURATIONS[name]}))
    command = [sys.executable, "-m", "seekr", "learn", str(config)]
    if "two-processes" in name:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *command[1:]]
    if "resumed" in name:
        _stop_within_the_second_task(command, folder / "run")
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {' '.join(command)}\n{done.stderr[-3000:]}")


def _described(folder: Path) -> dict[str, Any]:
    sys.path.insert(0, str(ROOT))
    from seekr.builtin import builtin_model
    from seekr.builtin.tasks import builtin_rows

    tasks = []
    for name in ("sort", "upper", "add"):
        task: dict[str, Any] = {"name": name, "separator": "", "max_new_tokens": 16}
        for split, count in (("train", 48), ("test", 8)):
            place = folder / "data" / name / f"{split}.json"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(builtin_rows(name, split, seed=0, count=count)))
            task[split] = str(place)
        tasks.append(task)
    output = {"model": str(builtin_model()), "tasks": tasks, "output_dir": str(folder / "run"), "seed": 3}
    return {**output, "training": _TRAINING | {"save_steps": 4}}


def _stop_within_the_second_task(command: list[str], run: Path) -> None:
    process = subprocess.Popen(command, env=_environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if (run / "predictions" / "0-0.jsonl").exists() and any(run.rglob("checkpoint-*/trainer_state.json")):
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.02)
    if process.wait() == 0:
        raise SystemExit("the run to be resumed ended before it could be stopped")


def _environment() -> dict[str, str]:
    # The hash seed: peft writes the names of the modules that it adapts as a set.
    fixed = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1"}
    return os.environ | fixed | {"PYTHONPATH": str(ROOT)}


def contents(run: Path) -> dict[str, str]:
    """Path in the run → hash, but for files of the machine; JSON without times, and texts without the paths of both."""
    names = sorted(path for path in run.rglob("*") if path.is_file() and path.name not in _OF_THE_MACHINE)
    return {str(path.relative_to(run)): _hash(path, run.parent) for path in names}


def _hash(path: Path, folder: Path) -> str:
    content = path.read_bytes().replace(str(ROOT).encode(), b"") if path.suffix != ".safetensors" else path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]
        left_out = _TIMES | (_OF_THE_PLACE if path.name == "scores.json" else set())
        timeless = json.dumps([_without(json.loads(line), left_out) for line in lines], sort_keys=True)
        content = timeless.replace(str(folder), "").encode()
    return hashlib.sha256(content).hexdigest()


def _without(value: Any, keys: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(item, keys) for key, item in value.items() if key not in keys}
    return [_without(item, keys) for item in value] if isinstance(value, list) else value


def differences(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> list[str]:
    """One line for every file that only one of the two has, or that differs."""
    found = []
    for name in after:
        for path in sorted({*before.get(name, {}), *after[name]}):
            there, here = before.get(name, {}).get(path), after[name].get(path)
            if there != here:
                what = "differs" if there and here else "is new" if here else "is gone"
                found.append(f"{name}: {path} {what}")
    return found


if __name__ == "__main__":
    main()
