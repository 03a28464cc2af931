"""The description of the package on PyPI: README.md without what only the repository can show.

PyPI resolves no relative link and shows no relative picture, so these are taken out.
"""

from __future__ import annotations

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

HERE = r"\((?!\w+:)[^()\s]+\)"  # a target without a scheme: a file of the repository, or a heading
LINK = rf"\[(?P<words>[^][]*)\]{HERE}"
PICTURE = re.compile(rf"!\[[^][]*\]{HERE}\s*")
ASIDE = re.compile(rf"\s\(\[[^][]*\]{HERE}(?:,\s\[[^][]*\]{HERE})*\)")  # "([how](…), [why](…))"


def for_pypi(readme: str) -> str:
    """Drop pictures, asides that are only links, and the targets of all other links."""
    text = ASIDE.sub("", PICTURE.sub("", readme))
    return re.sub(LINK, r"\g<words>", text)


class PyPIReadme(MetadataHookInterface):
    """Makes `project.readme`, which pyproject.toml declares as dynamic."""

    def update(self, metadata: dict[str, object]) -> None:
        """Add the description to the metadata of the project."""
        readme = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": for_pypi(readme)}
