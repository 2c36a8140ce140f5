"""The pages of the repository: links lead somewhere, every folder has its page, and commands that pages show exist."""

import re

import pytest

from support.checkpoints import REPOSITORY
from tmac.tools.verbs import VERBS

PAGES = sorted(
    path.relative_to(REPOSITORY)
    for folder in (
        REPOSITORY,
        *(REPOSITORY / name for name in ("docs", "convert", "kernels", "tools", "tests", "patches", "common")),
    )
    for path in (folder.glob("*.md") if folder == REPOSITORY else folder.rglob("*.md"))
    if "fixtures" not in path.parts[len(REPOSITORY.parts) :]
)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    text = (REPOSITORY / page).read_text("utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    broken = [t for t in targets if "://" not in t and not (REPOSITORY / page.parent / t).exists()]
    assert broken == []


@pytest.mark.parametrize("folder", ["common", "convert", "kernels", "patches", "tools", "tests"])
def test_every_folder_has_a_page_that_the_readme_links(folder):
    assert (REPOSITORY / folder / "README.md").is_file()
    assert f"]({folder}/README.md)" in (REPOSITORY / "README.md").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_verbs_of_pages_exist(page):
    shown = re.findall(r"(?:^    |`)tmac ([a-z-]*[a-z])", (REPOSITORY / page).read_text("utf-8"), re.M)
    assert [verb for verb in shown if verb not in VERBS] == []
