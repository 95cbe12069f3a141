"""The corpus of chat templates is whole."""

from __future__ import annotations

from template_corpus import NAMES, template_folder


def test_every_template_of_the_archive_has_its_name_here() -> None:
    assert tuple(sorted(path.stem for path in template_folder().glob("*.jinja"))) == NAMES
