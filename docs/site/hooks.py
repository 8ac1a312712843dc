"""MkDocs hooks: pages that lie outside docs/, and links between them and into the repository.

The pages are written for a reader of the repository. README.md becomes the site's start page, and the READMEs of
launcher/ and ds_configs/ pages of their own. A link to another file of the repository becomes its path as text, since
the site has no copy of it; tests/test_docs.py checks that each such file exists.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = {"README.md": "index.md", "launcher/README.md": "launcher.md", "ds_configs/README.md": "ds_configs.md"}
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside docs/."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links of the repository as links of the site."""
    sources = {page: source for source, page in OUTSIDE.items()}
    folder = os.path.dirname(sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    return LINK.sub(lambda link: site_link(link, folder), markdown)


def site_link(link: re.Match[str], folder: str) -> str:
    """A link, in a file of this folder of the repository, as the site has it."""
    text, target, anchor = link[1], os.path.normpath(os.path.join(folder, link[2])), link[3] or ""
    if target in OUTSIDE:
        return f"[{text}]({OUTSIDE[target]}{anchor})"
    if target.startswith("docs/"):
        return f"[{text}]({target.removeprefix('docs/')}{anchor})"
    return text if text.strip("`") == target else f"{text} (`{target}`)"
