"""Every fact that we repeat of llama.cpp holds in the pinned tree; and no comparison is blind."""

import pytest

from upstream import (
    attention,
    block_types,
    caches,
    containers,
    converter,
    graphs,
    linear_names,
    programs,
    server,
    vocabularies,
)
from upstream.fact import REPOSITORY

MODULES = (block_types, caches, linear_names, graphs, attention, vocabularies, containers, converter, programs, server)
FACTS = [fact for module in MODULES for fact in module.FACTS]
CHANGES = [pytest.param(fact, change, id=f"{fact.name}-{i}") for fact in FACTS for i, change in enumerate(fact.changes)]
README = REPOSITORY / "patches" / "README.md"
HEADING = "| fact | our files | files of llama.cpp | compared in |\n|---|---|---|---|\n"


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.name)
def test_our_copy_is_what_the_pinned_tree_says(llama, fact):
    message = fact.explain(llama)
    assert not message, message


@pytest.mark.parametrize("fact, change", CHANGES)
def test_a_change_of_llama_cpp_is_seen(llama, fact, change):
    """With one text of the tree changed, the comparison that is about it says so, and names the files of both."""
    message = fact.explain(llama.changed(*change))
    assert fact.name in message and fact.ours in message and fact.theirs in message


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.name)
def test_every_fact_has_a_change_and_names_files_that_are_there(llama, fact):
    assert fact.changes
    assert all(llama.paths(path) for path in fact.theirs.split(", "))


def test_readme_lists_every_fact(request):
    """The table is made from the facts; --update-golden writes it."""
    before, _, after = README.read_text("utf-8").partition(HEADING)
    lines = after.split("\n")
    rest = next(i for i, line in enumerate(lines) if not line.startswith("|"))
    assert HEADING in README.read_text("utf-8")
    rows = [fact.row for fact in FACTS]
    if request.config.getoption("--update-golden"):
        README.write_text(before + HEADING + "\n".join([*rows, *lines[rest:]]), "utf-8")
    else:
        assert lines[:rest] == rows, "run pytest tests/upstream --update-golden"
