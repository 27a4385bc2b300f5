"""The pages: complete without a script, nothing asked of a network, every name a text."""

import json
from html.parser import HTMLParser

import msgspec
import pytest
from summaries import HOSTILE, bare, hostile, whole

from featherweight.report import html, markdown, write_reports
from featherweight.report.tables import answer, commands


class Parsed(HTMLParser):
    """Elements with their attributes, and texts that are no script or style."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.texts, self.scripts, self.open = [], [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open = tag

    def handle_endtag(self, tag):
        self.open = ""

    def handle_data(self, data):
        (self.scripts if self.open in ("script", "style") else self.texts).append(data)


SUMMARIES = {"whole": whole(), "bare": bare(), "hostile": hostile()}


@pytest.mark.parametrize("summary", SUMMARIES.values(), ids=list(SUMMARIES))
def test_nothing_is_asked_of_a_network(summary):
    parsed = Parsed(html(summary))
    for tag, attributes in parsed.elements:
        assert tag not in ("link", "img", "iframe", "object", "base", "form"), tag
        assert not {"src", "href", "srcset", "action", "data"} & set(attributes), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    policy = next(a["content"] for t, a in parsed.elements if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    styles_and_page = [text for text in parsed.scripts if len(text) < 100_000]
    assert not any("url(" in text or "@import" in text for text in styles_and_page)


def test_hostile_names_are_texts():
    parsed = Parsed(html(hostile()))
    assert sum(tag == "script" for tag, _ in parsed.elements) == 3
    assert HOSTILE in parsed.texts
    figures = next(text for text in parsed.scripts if text.startswith("{"))
    assert json.loads(figures).keys() == {"steps", "tensors", "front", "sensitivity"}


def test_the_tables_say_it_all_without_a_script():
    texts = " ".join(Parsed(html(whole())).texts)
    for said in ("7.8x smaller", "97.80 %", "98.10 %", "-0.30 points", "100x100", "int 4 channel", "rans",
                 "12.50 %", "not finite", "no step selected it (a vector)", "clustered 2", "+1.7000",
                 "onnxruntime", "seed 3", "torch 2.13.0", "recipe.toml", "not a matrix"):  # fmt: skip
        assert said in texts, said


def test_a_file_that_is_not_smaller_is_not_said_to_be():
    assert answer(bare()).startswith("Not smaller")
    assert answer(whole()).startswith("7.8x smaller")


def test_commands_name_the_task_only_where_the_command_line_knows_it():
    assert "--task lenet300-mnist --seed 3 --threads 2" in commands(whole())
    assert HOSTILE not in commands(hostile())
    assert "--task TASK.py:NAME" in commands(hostile())


def test_markdown_has_the_same_stages_and_no_broken_rows():
    page = markdown(whole())
    assert "| train | 43 kB | 1.0x | 98.00 % | +0.00 | 12.5 | epochs = 2 |" in page
    assert "| sparsify | 43 kB | 1.0x | not finite | - |" in page
    for line in markdown(hostile()).splitlines():
        if line.startswith("|") and HOSTILE.replace("|", "\\|") in line:
            assert line.endswith("|")


def test_the_same_summary_gives_the_same_bytes(tmp_path):
    first = {path.name: path.read_bytes() for path in write_reports(whole(), tmp_path / "a")}
    again = {path.name: path.read_bytes() for path in write_reports(whole(), tmp_path / "b")}
    assert first == again
    stages = msgspec.json.decode(first["report.json"])["stages"]
    assert [stage["nbytes"] for stage in stages] == [43_000, 43_010, 5_400]
