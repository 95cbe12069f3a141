"""The header of an answer that names what of a schema isn't enforced."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

NOT_ENFORCED = "x-schema-not-enforced"
MAX_PLACES = 20
MAX_HEADER = 4096


def not_enforced_header(places: Sequence[str]) -> dict[str, str]:
    """The header, empty where all is enforced.

    Args:
        places: each the request's field and a JSON pointer, such as `response_format#/properties/a/pattern`;
            they are percent-encoded.
    """
    if not places:
        return {}
    shown = [quote(place, safe="/#[]~$") for place in places[:MAX_PLACES]]
    more = [f"and {len(places) - MAX_PLACES} more"] if len(places) > MAX_PLACES else []
    return {NOT_ENFORCED: ", ".join([*shown, *more])[:MAX_HEADER]}
