import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_runs import HOSTILE, write_answers, write_run

from seekr.errors import InputError
from seekr.report.page import write_report
from seekr.runs.run import Run, find_runs

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """The page as a browser would take it: elements with attributes, tables as rows of cell texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.importance: list[list[list[str]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.importance.append([])
        elif tag == "tr":
            self.importance[-1].append([])
        elif tag in ("td", "th"):
            self.importance[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open and ("td" in self.open or "th" in self.open):
            self.importance[-1][-1][-1] += data

    def table(self, first_heading: str) -> list[list[str]]:
        rows = next(table for table in self.importance if table[0][0].split("\n")[0].strip() == first_heading)
        return [[" ".join(cell.split()) for cell in row] for row in rows]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo's folder: five methods, three seeds of two of them, a skill in front of one."""
    root = tmp_path_factory.mktemp("runs")
    for method in ("sequential", "replay", "derpp", "joint"):
        write_run(root / method, method=method)
    for seed in (0, 1, 2):
        write_run(root / "seekr" / f"seed-{seed}", seed=seed, skill="chat" if seed == 0 else None)
    return root


@pytest.fixture(scope="module")
def page(runs: Path) -> Page:
    return Page(write_report([runs], runs / "report.html").read_text(encoding="utf-8"))


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}".replace("-", "−")


def test_every_score_stands_in_its_cell(runs: Path, page: Page) -> None:
    mean, *matrices = [table for table in page.importance if table[0][0].strip() == "after"]
    assert mean[1][1].split()[0] == f"{np.mean([score_of(runs / 'seekr' / f'seed-{seed}') for seed in (1, 2)]):.1f}"
    folders = find_runs([runs])
    assert len(matrices) == len(folders) == 7
    for table, folder in zip(matrices, folders, strict=True):
        scores = json.loads((folder / "scores.json").read_text())
        expected = scores["matrix"][-1:] if folder.name == "joint" else scores["matrix"]
        assert len(table) - 1 == len(expected)
        for row, values in zip(table[1:], expected, strict=True):
            texts = [cell.replace("not measured", "").split("±")[0].strip() for cell in row[1:]]
            assert texts == [shown(value) for value in values]


def score_of(folder: Path) -> float:
    return float(json.loads((folder / "scores.json").read_text())["matrix"][0][0])


def test_single_runs_show_their_own_measures(runs: Path, page: Page) -> None:
    table = page.table("Method")
    for method in ("sequential", "replay", "derpp", "joint"):
        scores = json.loads((runs / method / "scores.json").read_text())
        row = next(row for row in table if row[0].split()[0] == method)
        fields = ("overall_performance", "backward_transfer", "backward_transfer_over_all_tasks", "forgetting")
        assert [cell.split(" ±")[0] for cell in row[2:6]] == [shown(scores[field]) for field in fields]


def test_steps_are_counted_from_the_log(page: Page) -> None:
    rows = {row[0].split()[0]: row[-1] for row in page.table("Method")[1:]}
    assert rows["replay"] == "120 (16)"  # three tasks of 40 lines, every fifth of the later two a replay step
    assert rows["joint"] == "40 (0)"


def test_page_needs_nothing_but_itself(page: Page) -> None:
    assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "embed"}
    for tag, attributes in page.elements:
        for name in ("src", "srcset", "data", "action", "xlink:href"):
            assert name not in attributes, (tag, name)
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_links_lead_somewhere_and_identifiers_are_unique(page: Page) -> None:
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for _, attributes in page.elements:
        if "href" in attributes:
            assert attributes["href"][1:] in identifiers


def test_tables_tell_what_their_headers_belong_to(page: Page) -> None:
    headers = [attributes for tag, attributes in page.elements if tag == "th"]
    assert headers
    assert all(attributes.get("scope") in ("col", "row") for attributes in headers)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("caption") == tags.count("table")
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert all(attributes.get("aria-label") or "aria-hidden" in attributes for attributes in drawings)


def test_hostile_answers_are_text(runs: Path, page: Page) -> None:
    assert any(HOSTILE in text for text in page.texts)
    assert "<b>bold" not in page.source
    assert 'onerror="' not in page.source


def test_hostile_names_are_text(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>'
    tasks = ("a & b", evil.replace("/", ""), "{{ 1 - 0 }}")
    run = write_run(tmp_path / "run", tasks=tasks, prompt="\ud800\x00 \u202e x")
    page = Page(write_report([run], tmp_path / "out.html", title=evil).read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.elements}
    assert evil in page.texts


def test_same_runs_same_bytes(runs: Path, tmp_path: Path) -> None:
    first = write_report([runs], tmp_path / "one" / "report.html").read_bytes()
    assert first == write_report([runs], tmp_path / "two.html").read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["report.html"]


def test_chosen_heads_are_outlined_and_listed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tasks=("only",), matrix=[[50.0]])
    stage = Run(run).stages[0]
    page = Page(write_report([run], tmp_path / "out.html").read_text())
    outlines = [attributes["d"] for tag, attributes in page.elements if attributes.get("class") == "chosen"]
    count = sum(map(len, stage.heads.values()))
    assert count == 4
    assert [path.count("M") for path in outlines] == [count] * 3  # importance, sensitivity, change
    drawn = [attributes for _, attributes in page.elements if re.fullmatch(r"l\d+", attributes.get("class") or "")]
    assert sum(attributes["d"].count("M") for attributes in drawn) == 3 * 4 * 8
    text = " ".join("".join(page.texts).split())
    for layer, heads in stage.heads.items():
        assert f"layer {layer}: {', '.join(map(str, heads))}" in text


def test_largest_head_is_darkest(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tasks=("only",), matrix=[[50.0]])
    importance = Run(run).stages[0].importance["importance"]
    layer, head = divmod(int(importance.argmax()), importance.shape[1])
    page = Page(write_report([run], tmp_path / "out.html").read_text())
    darkest = next(attributes["d"] for _, attributes in page.elements if attributes.get("class") == "l11")
    assert f"M{30 + 24 * head} {16 + 24 * layer}h" in darkest


def test_run_that_is_going_on_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    empty = [None, None, None]
    run = write_run(tmp_path / "run", matrix=[[70.0, None, None], empty, empty])
    shutil.rmtree(run / "stages" / "02-add")
    table = Page(write_report([run], tmp_path / "a.html").read_text()).table("after")
    assert [row[1:] for row in table[1:]] == [["70.0 ± 15.3", "not measured", "not measured"]]
    (run / "scores.json").unlink()
    page = Page(write_report([run], tmp_path / "b.html").read_text())
    assert any("Nothing scored yet" in text for text in page.texts)
    assert any("not finished: 2 of 3 stages done" in text for text in page.texts)
    drawn = [text for text in page.texts if "Each task over the stages" in text or "that lost most" in text]
    assert not drawn, "it said that of 3 tasks the first and last three are drawn, and drew none"


def test_answers_show_what_was_forgotten_first(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tasks=("a", "b"), matrix=[[100.0, None], [0.0, 100.0]])
    table = Page(write_report([run], tmp_path / "out.html").read_text()).table("Prompt")
    assert table[0] == ["Prompt", "Reference", "After a", "After b"]
    assert table[1][2] == "✓ right 1 2 3"
    assert table[1][3].startswith("✗ wrong 3 2 1")


def test_every_verdict_on_a_task_has_its_sign(tmp_path: Path) -> None:
    """Bug: one that had nothing and still has was not foreseen."""
    tasks, finals = ("had", "slips", "half", "lost", "held", "new"), [0.0, 85.0, 60.0, 20.0, 90.0, 50.0]
    matrix: list[list[float | None]] = [[None] * 6 for _ in tasks]
    for place, learned in enumerate([0.0, 90.0, 90.0, 90.0, 90.0, 50.0]):
        matrix[place][place] = learned
    run = write_run(tmp_path / "run", tasks=tasks, matrix=[*matrix[:-1], finals])
    shutil.rmtree(run / "predictions")  # so that a point is all that may be chance
    text = " ".join(write_report([run], tmp_path / "out.html").read_text().split())
    signs = {"had nothing": "–", "slipped": "↘", "partly forgotten": "↘", "forgotten": "✗", "held": "✓"}
    for verdict, sign in signs.items():
        assert f'<span class="{verdict.replace(" ", "-")}">{sign} {verdict}</span>' in text


@pytest.mark.thorough
def test_a_page_of_fifteen_tasks_of_a_thousand_examples_stays_small(tmp_path: Path) -> None:
    """Of a model of 32 layers and 32 heads, whose maps, losses and a few answers of each task are drawn."""
    tasks = [f"task{number}" for number in range(15)]
    run = write_run(tmp_path / "run", tasks=tasks, steps=1000, layers=32, heads=32)
    for file in (run / "predictions").iterdir():
        rows = file.read_text().splitlines(keepends=True)
        file.write_text("".join(rows * 100))
    page = write_report([run], tmp_path / "out.html")
    assert 5e5 < page.stat().st_size < 10e6


def test_long_prompts_lose_their_middle(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tasks=("a",), matrix=[[50.0]])
    write_answers(run, 0, 0, 50.0, "begin" + "x" * 100_000 + "end")
    text = write_report([run], tmp_path / "out.html").read_text()
    assert "characters left out" in text
    assert len(text) < 100_000


def test_ink_is_readable_on_every_colour(page: Page) -> None:
    """Contrast of WCAG 2 for text, light and dark: 4.5 for all text, the darkest cell of a matrix included."""
    light, dark = (dict(re.findall(r"--(\w+): #(\w{6})", part)) for part in page.source.split("@media")[:2])
    for theme in (light, dark):
        colours = {name: [int(value[i : i + 2], 16) for i in (0, 2, 4)] for name, value in theme.items()}
        mixed = [0.55 * h + 0.45 * p for h, p in zip(colours["heat"], colours["paper"], strict=True)]
        for text in ("ink", "quiet", "good", "bad", "heat"):
            assert contrast(colours[text], colours["paper"]) >= 4.5, text
        assert contrast(colours["ink"], mixed) >= 4.5
    widest = max(float(value) for value in re.findall(r"--v:([\d.]+)%", page.source))
    assert 0 < widest <= 55


def contrast(one: list[float], other: list[float]) -> float:
    def luminance(colour: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_output_that_cannot_be_written(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="give another --output"):
        write_report([runs], tmp_path / "file" / "report.html")
    with pytest.raises(InputError, match="give one run folder"):
        write_report([], tmp_path / "report.html")
