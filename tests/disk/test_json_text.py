"""JSON as files and stdout have it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seekr.disk.files import json_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(JSON)
def test_json_is_read_as_it_was_and_its_lists_of_scalars_stand_in_a_line(content: Any) -> None:
    text = json_text(content)
    assert json.loads(text) == content
    assert text.endswith("\n")
    flat = json.dumps(content, ensure_ascii=False, indent=2)
    if "[" not in flat:
        assert text == flat + "\n"


def test_json_of_a_matrix_has_a_line_a_row() -> None:
    content = {"tasks": ["a", "b"], "matrix": [[1.5, None], [2, 3]], "answers": {"0-0": "x", "1-0": "ä"}, "empty": {}}
    assert json_text(content).splitlines() == [
        "{",
        '  "tasks": ["a", "b"],',
        '  "matrix": [',
        "    [1.5, null],",
        "    [2, 3]",
        "  ],",
        '  "answers": {',
        '    "0-0": "x",',
        '    "1-0": "ä"',
        "  },",
        '  "empty": {}',
        "}",
    ]
    assert json_text({1: {2: [()]}}).replace("\n", "").replace(" ", "") == '{"1":{"2":[[]]}}'
    for value in (float("nan"), {"a": [float("inf")]}, {"a": float("nan")}):
        with pytest.raises(ValueError, match="not JSON compliant"):
            json_text(value)
