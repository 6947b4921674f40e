"""What the signals that are kept of a row say of the row itself: is its text found again without the text?

    python benchmarks/revealed_rows.py RUN --samples 10 --json benchmarks/results/revealed_rows.json

RUN is a finished run of `seekr` whose stages have their weights. Of each stage, rows are searched token by token from
their kept attention and the stage's own model alone: of all tokens of the vocabulary the one is taken whose row of the
attention map lies nearest to what is kept; only the first token is given. Beside it, how many answer tokens the kept
logits name: those that are the most probable of their place.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from seekr import Run
from seekr.attention.rows import MapRows, QueryKeyRows
from seekr.attention.stored import FORMS, decode, encode
from seekr.attention.tap import AttentionCall, Tap
from seekr.bench import describe_machine
from seekr.disk.files import write_json
from seekr.memory.reader import Memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=10, help="rows of each task at most")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    found: dict[str, list[float]] = defaultdict(list)
    for stage in Run(arguments.run).stages:
        if stage.model is None or stage.memory is None:
            continue
        model = AutoModelForCausalLM.from_pretrained(stage.model, attn_implementation="sdpa").eval()
        for place in range(min(arguments.samples, len(stage.memory))):
            for kept_as, share in revealed(model, stage.memory, place).items():
                found[kept_as].append(share)
        print(stage.name, {name: round(100 * sum(each) / len(each), 1) for name, each in found.items()}, flush=True)
    shares = {name: {"rows": len(each), "share": sum(each) / len(each), "whole": sum(s == 1 for s in each)}
              for name, each in found.items()}  # fmt: skip
    write_json(
        arguments.json, {"machine": describe_machine(), "vocabulary": model.config.vocab_size, "kept_as": shares}
    )
    print(json.dumps(shares))


@torch.no_grad()
def revealed(model: PreTrainedModel, memory: Memory, place: int) -> dict[str, float]:
    """By what is kept, the share of a row's tokens that are found again; of the logits, of its answer's."""
    row = memory.encoded(place)
    ids = torch.from_numpy(row.input_ids).long()
    calls = attended(model, memory, ids[None])
    rows = {layer: QueryKeyRows.of_call(call, 0, (0, len(ids)), memory.heads[layer]) for layer, call in calls.items()}
    shares = {}
    for form in FORMS:
        kept = {
            layer: decode(encode(one, form), form, one.positions, one.geometry, one.query.shape[-1])
            for layer, one in rows.items()
        }
        shares[form] = float((searched(model, memory, kept, ids[:1], len(ids))[1:] == ids[1:]).float().mean())
    answer = ids[torch.from_numpy(row.labels) >= 0]
    named = memory.logits(place)
    most = named.ids.long().gather(1, named.log_probs.float().argmax(1, keepdim=True))[:, 0]
    return shares | {"logits": float((most == answer).float().mean())}


def searched(model: PreTrainedModel, memory: Memory, kept: dict[int, MapRows], first: Tensor, length: int) -> Tensor:
    """The row that is found, token by token, from what is kept of its attention."""
    ids = first
    candidates = torch.arange(int(model.config.vocab_size))
    for place in range(1, length):
        tried = torch.cat([ids.expand(len(candidates), -1), candidates[:, None]], dim=1)
        calls = attended(model, memory, tried)
        far = torch.zeros(len(candidates))
        for layer, call in calls.items():
            far += distance(call, kept[layer], memory.heads[layer], place)
        ids = torch.cat([ids, far.argmin()[None]])
    return ids


def distance(call: AttentionCall, kept: MapRows, heads: Tensor, place: int) -> Tensor:
    """[candidates], the sum of |p − p'| over the row of each one's last token in the chosen heads of a layer."""
    query, key = call.query[:, heads, -1].float(), call.key.float()
    key = key[:, heads // (call.query.shape[1] // key.shape[1])]
    tried = (call.geometry.scaling * torch.einsum("chd,chkd->chk", query, key)).log_softmax(-1)
    row, columns = slice(place, place + 1), slice(0, place + 1)
    if isinstance(kept, QueryKeyRows):
        there = kept.log_probs(row, columns)[None, :, 0]
    else:  # what lies outside of the largest entries is spread as the student's
        there = torch.stack([kept.log_probs(row, columns, one[:, None])[:, 0] for one in tried])
    return (tried.exp() - there.exp()).abs().sum((1, 2))


def attended(model: PreTrainedModel, memory: Memory, ids: Tensor) -> dict[int, AttentionCall]:
    with Tap(model, memory.heads) as tap:
        model(input_ids=ids, use_cache=False)
    return dict(tap.calls)


if __name__ == "__main__":
    main()
