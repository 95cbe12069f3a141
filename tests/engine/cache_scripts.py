"""What may happen to a cache of cells, for the property tests of both kinds."""

from __future__ import annotations

from hypothesis import strategies as st

tokens = st.lists(st.integers(0, 2), min_size=1, max_size=12)
scripts = st.lists(
    st.one_of(
        st.tuples(st.just("start"), tokens, st.sampled_from([None, "a"])),
        st.tuples(st.just("extend"), st.integers(0, 9), st.lists(st.integers(0, 2), min_size=1, max_size=3)),
        st.tuples(st.just("finish"), st.integers(0, 9), st.booleans()),
        st.tuples(st.just("restore"), st.integers(0, 9), st.integers(1, 20), st.booleans()),
    ),
    max_size=40,
)
