"""What a model keeps of the tokens before, and where that can be cut."""

from __future__ import annotations

from enum import Enum, auto


class Past(Enum):
    """Cells of all tokens, or of the last ones, from which any number can be taken back as long as they last;
    or a state that only goes forward.

    Attributes:
        ALL: full attention: a sequence can be cut anywhere.
        WINDOW: some layers with a sliding window: it can be cut where the window's cells are still there.
        PARTLY_STATE: recurrent layers beside attention: it can be cut where the state was kept.
        STATE: recurrent layers alone.
    """

    ALL = auto()
    WINDOW = auto()
    PARTLY_STATE = auto()
    STATE = auto()

    @property
    def has_state(self) -> bool:
        """Whether some of it only goes forward."""
        return self in (Past.STATE, Past.PARTLY_STATE)

    def least_saved(self, length: int) -> int:
        """The shortest beginning that a saved state of so many tokens can be cut to by itself."""
        match self:
            case Past.ALL:
                return 0
            case Past.WINDOW:  # what llama.cpp saves is all that the last token saw
                return length - 1
            case _:
                return length
