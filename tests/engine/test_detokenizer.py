"""Text is released in whole characters, and stop strings never show, however the bytes are cut."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from predictor.engine.detokenizer import Detokenizer


def run(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    detokenizer = Detokenizer(stop)
    texts = []
    for piece in pieces:
        texts.append(detokenizer.push(piece))
        if detokenizer.stopped_by:
            return texts, True
    texts.append(detokenizer.flush())
    return texts, False


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def test_a_character_cut_in_two_is_shown_once_whole() -> None:
    detokenizer = Detokenizer()
    first, second = "é".encode()[:1], "é".encode()[1:]
    assert detokenizer.push(first) == ""
    assert detokenizer.push(second) == "é"


def test_an_unfinished_character_at_the_end_is_dropped() -> None:
    texts, _ = run([b"ok", "😀".encode()[:2]])
    assert "".join(texts) == "ok"


def test_a_stop_string_across_pieces_never_shows() -> None:
    texts, stopped = run([b"one S", b"T", b"OP two"], ("STOP",))
    assert (texts, stopped) == (["one ", "", ""], True)


def test_a_false_start_of_a_stop_string_is_shown_after_all() -> None:
    texts, stopped = run([b"a ST", b"AR"], ("STOP",))
    assert ("".join(texts), stopped) == ("a STAR", False)


def test_the_earliest_of_several_stop_strings_wins() -> None:
    texts, stopped = run([b"xx BB AA"], ("AA", "BB"))
    assert ("".join(texts), stopped) == ("xx ", True)


def test_held_text_is_shown_at_the_end() -> None:
    texts, stopped = run([b"end ST"], ("STOP",))
    assert ("".join(texts), stopped) == ("end ST", False)


@given(st.text(), st.lists(st.integers(min_value=0)))
def test_any_cut_gives_the_same_text(text: str, places: list[int]) -> None:
    texts, stopped = run(cut(text.encode(), places))
    assert ("".join(texts), stopped) == (text, False)


@given(
    st.text(alphabet="ab✓", max_size=30),
    st.lists(st.text(alphabet="ab✓", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(min_value=0)),
)
def test_any_cut_stops_at_the_same_place(text: str, stop: list[str], places: list[int]) -> None:
    """Whatever the cuts, the shown text holds no stop string and is the text up to some stop string."""
    texts, stopped = run(cut(text.encode(), places), tuple(stop))
    shown = "".join(texts)
    assert text.startswith(shown)
    assert not any(s in shown for s in stop)
    assert stopped == any(s in text for s in stop)
    if stopped:
        assert any(text[len(shown) :].startswith(s) for s in stop)
    else:
        assert shown == text
