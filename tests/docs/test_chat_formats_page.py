"""The table of chat formats says what is learnt today."""

from __future__ import annotations

from scripts.chat_formats_page import PAGE, START, table


def test_the_table_is_what_is_learnt() -> None:
    shown = PAGE.read_text().partition(START)[2].strip()
    assert shown == table(), "write it anew with `make reference`"
