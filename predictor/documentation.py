"""Where this version's documentation is published: a user of the package has no `docs` folder."""

from __future__ import annotations

from predictor import __version__

SITE = "https://kserve-llamacpp.github.io/kserve-llamacpp"


def page(name: str) -> str:
    """The address of a page.

    Args:
        name: its file in `docs`, without `.md`, and an anchor if one is meant: "security#tls".
    """
    path, hash_sign, anchor = name.partition("#")
    return f"{SITE}/{__version__}/{path}.html{hash_sign}{anchor}"
