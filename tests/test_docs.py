"""What the pages say is there, is there: links, commands and their options, events and prices."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from infra.cli.app import app
from privacy import events
from privacy.accounting import registry

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMANDS = typer.main.get_command(app)
ACCOUNTING = (ROOT / "docs" / "accounting.md").read_text(encoding="utf-8")
DELTA = 1e-5


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(text: str) -> str:
    """A page without its code blocks."""
    return CODE.sub("", text)


# Links


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


# Commands


def in_blocks(text: str) -> Iterator[list[str]]:
    """The words of every `tacit` command in the code blocks for a shell."""
    for kind, block in CODE.findall(text):
        if kind not in ("sh", "console", "bash", "shell"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            told = line.removeprefix("$ ").strip()
            if re.match(r"(\S*/)?tacit(\s|$)", told):
                yield shlex.split(told, comments=True)[1:]


def in_spans(text: str) -> list[list[str]]:
    """The words of every `tacit ...` in running text; it may leave arguments out."""
    spans = re.findall(r"`tacit ([^`]+)`", prose(text))
    return [re.sub(r"\.\.\.|[\[\]]", " ", span).split() for span in spans]


def check(words: list[str], *, whole: bool) -> None:
    """Fail where no such command or option exists, or (`whole`) arguments are too few or many."""
    command: Any = COMMANDS
    words = list(words)
    while hasattr(command, "commands"):
        if not words:
            assert not whole, "names a group and no command of it"
            return
        word = words.pop(0)
        if word.startswith("--"):  # an option of the group itself, such as --version
            assert word in {o for p in command.params for o in p.opts} | {"--help"}, word
            continue
        for name in word.split("/") if not whole else [word]:
            assert name in command.commands, f"no command {name!r}"
        command = command.commands[word.split("/")[0]]
        if "/" in word:  # several commands named at once
            return
    options = {o: p for p in command.params for o in (*p.opts, *p.secondary_opts)}
    given = 0
    while words:
        word, _, value = words.pop(0).partition("=")
        if not word.startswith("-"):
            given += 1
            continue
        if word == "--help":
            continue
        assert word in options, f"no option {word} of {command.name}"
        if not value and not getattr(options[word], "is_flag", False) and (words or whole):
            words.pop(0)
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    if whole:
        assert sum(p.required for p in arguments) <= given
        assert given <= len(arguments) or any(p.nargs < 0 for p in arguments)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_shown_exists_with_its_options(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for words in in_blocks(text):
        check(words, whole=True)
    for words in in_spans(text):
        check(words, whole=False)


def test_a_command_that_is_not_there_would_be_seen() -> None:
    check(["budget", "set", "a/b/record", "--epsilon", "3", "--reason", "r"], whole=True)
    for bad in (["no-such"], ["budget", "shew"], ["run"], ["run", "job.yaml", "--fast"]):
        with pytest.raises(AssertionError):
            check(bad, whole=True)


# Events


EXAMPLES = re.findall(r"^\| `(\{.+?\})` \|.*?\|(.+)\|$", ACCOUNTING, re.MULTILINE)
PRICED = re.findall(
    r"```json\n(.*?)```\s+```console\n\$ tacit price event\.json --delta 1e-5\n(.*?)```",
    ACCOUNTING,
    re.DOTALL,
)


@pytest.mark.parametrize(("text", "cells"), EXAMPLES, ids=[text[:30] for text, _ in EXAMPLES])
def test_every_kind_of_event_has_the_prices_shown(text: str, cells: str) -> None:
    event = events.parse(json.loads(text))
    shown = dict(zip(registry.ACCOUNTANTS, (c.strip() for c in cells.split("|")), strict=True))
    # The last digit shown may fall either way on another machine.
    prices = registry.price(event, DELTA)
    assert {name for name, cell in shown.items() if cell != "-"} == set(prices)
    for name, value in prices.items():
        assert float(shown[name]) == pytest.approx(value, rel=0, abs=1.01e-6)


def test_every_kind_is_shown() -> None:
    shown = {json.loads(text)["event"] for text, _ in EXAMPLES}
    kinds = {kind.__name__ for kind in events._Event.__subclasses__()}
    assert len(shown) == len(kinds) == len(EXAMPLES)


@pytest.mark.parametrize(("text", "output"), PRICED, ids=[text[:30] for text, _ in PRICED])
def test_the_output_of_price_is_what_it_prints(text: str, output: str) -> None:
    shown = dict(re.findall(r"^ *(\w+)  epsilon ([\d.]+)$", output, re.MULTILINE))
    assert shown.keys() == registry.price(events.parse(json.loads(text)), DELTA).keys()
    for name, value in registry.price(events.parse(json.loads(text)), DELTA).items():
        assert float(shown[name]) == pytest.approx(value, rel=0, abs=1.01e-6)


def test_every_json_block_of_the_page_is_an_event() -> None:
    blocks = [text for kind, text in CODE.findall(ACCOUNTING) if kind == "json"]
    assert len(blocks) == len(PRICED) >= 2
    for text in blocks:
        events.parse(json.loads(text))
