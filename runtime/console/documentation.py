"""The pages of docs/ in the browser. The alerts link to sections of the runbook there."""

import posixpath
import re
from functools import partial
from html import escape
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

import docs
from edge.pages import LazyPage, Page

_FOLDER = Path(docs.__file__).parent
_TEMPLATE = Path(__file__).with_name("documentation.html")
_IMAGE_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
_MARKDOWN = MarkdownIt("commonmark").enable("table")


def create(path: str, policy: str) -> dict[str, Page | LazyPage]:
    """The pages and their images by their paths, which begin with `path` and end as the names of the files, so that
    relative links work. `policy` is the Content-Security-Policy."""
    pages: dict[str, Page | LazyPage] = {}
    for file in sorted(_FOLDER.rglob("*.*")):
        name = file.relative_to(_FOLDER).as_posix()
        if file.suffix == ".md":
            pages[f"{path}/{name}"] = LazyPage(partial(_page, file, name, policy))
        elif file.suffix in _IMAGE_TYPES:
            pages[f"{path}/{name}"] = Page(file.read_bytes(), _IMAGE_TYPES[file.suffix], policy)
    return pages


def _page(file: Path, name: str, policy: str) -> Page:
    tokens = _MARKDOWN.parse(file.read_text(encoding="utf-8"))
    title = tokens[1].content
    for token, following in pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", _anchor(following.content))
        for child in token.children or ():
            if child.type == "link_open" and _leaves_the_folder(child, name):
                del child.attrs["href"]
    text = _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})
    html = _TEMPLATE.read_text(encoding="utf-8").replace("<!-- title -->", escape(title)).replace("<!-- text -->", text)
    return Page(html.encode(), "text/html", policy)


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _leaves_the_folder(link: Token, page: str) -> bool:
    """True for a link to a file of the repository that is not served."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), str(link.attrs["href"])))
    return target.startswith("..")
