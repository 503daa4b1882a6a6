"""Steps of `mkdocs build`: pages that lie at the root of the repository, and links that leave `docs/`.

A page is written for whoever reads it in the repository; the site takes it as it is, with its links led to where the
site has their targets.
"""

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Page at the root of the repository to its place on the site."""
FILES = ("LICENSE", "cluster.yaml")
"""Files that pages link to and that the site holds as they are."""
_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
_REPOSITORY_PAGES = {there: here for here, there in PAGES.items()}


def on_files(files: Files, config: Any) -> Files:
    """Adds what lies outside of `docs/`."""
    for here, there in {**PAGES, **dict.fromkeys(FILES)}.items():
        text = (ROOT / here).read_text(encoding="utf-8")
        files.append(File.generated(config, there or name_file(here), content=text))
    return files


def name_file(name: str) -> str:
    """Place of a file on the site; a browser shows one that ends in `.txt`."""
    return name if "." in name else f"{name}.txt"


def lead_links(text: str, source: str) -> str:
    """Leads a page's relative links to where the site has their targets.

    Args:
        text: Markdown.
        source: Place of the page on the site, e.g. `index.md` or `api/data.md`.
    """
    repository = _REPOSITORY_PAGES.get(source, f"docs/{source}")

    def lead(match: re.Match[str]) -> str:
        before, target, after = match.groups()
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(repository), target))
        found = PAGES.get(place) or (name_file(place) if place in FILES else place.removeprefix("docs/"))
        return f"{before}{posixpath.relpath(found, str(PurePosixPath(source).parent))}{after}"

    return _LINK.sub(lead, text)


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Leads the links of every page."""
    return lead_links(markdown, page.file.src_uri)
