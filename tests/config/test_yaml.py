"""YAML is read within bounds: what a few lines write out to, how deep they go, how long they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from seekr.config.yaml import DEEPEST, LARGEST, MOST_VALUES, parse_yaml, read_yaml
from seekr.errors import InputError


def chain(levels: int, value: str) -> str:
    """Anchor after anchor, `value` being made of aliases of the one before it."""
    return "a0: &a0 {k: 1}\n" + "".join(
        f"a{level}: &a{level} {value.replace('*', f'*a{level - 1}')}\n" for level in range(1, levels)
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        pytest.param(chain(30, "[*, *, *, *, *, *, *, *, *]"), f":6: .*more than {MOST_VALUES:,} values", id="laughs"),
        pytest.param(chain(30, "{<<: [*, *, *, *, *, *, *]}"), f"more than {MOST_VALUES:,} values", id="merged laughs"),
        pytest.param(chain(30, "{one: {two: *}}"), f":21: .*nested more than {DEEPEST} deep", id="deep by aliases"),
        pytest.param("a: &a [*a]", f"nested more than {DEEPEST} deep", id="list within itself"),
        pytest.param("a: &a {b: *a}", f"nested more than {DEEPEST} deep", id="object within itself"),
        pytest.param("[" * 41 + "]" * 41, f"nested more than {DEEPEST} deep", id="deep"),
        pytest.param("[" * 20_000, "nested too deeply", id="deeper than Python goes"),
    ],
)
def test_yaml_that_grows_when_it_is_read_is_refused_in_a_line(text: str, what: str) -> None:
    with pytest.raises(InputError, match=f"^file.yaml.*{what}") as refusal:
        parse_yaml(text, "file.yaml")
    assert len(str(refusal.value)) < 600


def test_aliases_within_bounds_are_what_they_name() -> None:
    text = "one: &one {rate: 1e-3}\ntwo: *one\nthree: {<<: *one, more: [*one]}\n"
    rate = {"rate": 1e-3}
    assert parse_yaml(text, "") == {"one": rate, "two": rate, "three": {**rate, "more": [rate]}}
    assert parse_yaml("[" * DEEPEST + "]" * DEEPEST, "") is not None
    assert parse_yaml("", "") is None


def test_a_file_that_is_too_large_for_a_configuration_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"a: 1\n".ljust(LARGEST + 1, b"#"))
    with pytest.raises(InputError, match=r"config.yaml: more than 1 MiB"):
        read_yaml(path)
