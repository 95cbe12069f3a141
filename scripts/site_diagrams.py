"""Renders Mermaid diagrams while the site is built, so that its pages load nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mermaidx


def on_config(config: Any) -> Any:
    """Called by MkDocs once it has read its configuration."""
    fences = config["mdx_configs"].setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "mermaid", "class": "diagram", "format": _render}]
    return config


def _render(
    source: str, _language: str, class_name: str, _options: Mapping[str, Any], *_: Any, **__: Any
) -> str:
    drawing = mermaidx.render(source, theme="neutral").svg()
    # On white, since the lines and words are dark in the dark scheme too.
    return f'<div class="{class_name}" style="background: white; padding: 1em">{drawing}</div>'
