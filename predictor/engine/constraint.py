"""What a sequence's tokens are held to, as far as the engine is concerned."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt


class TokenConstraint(Protocol):
    """Says step by step which tokens may come next. It has the state of one sequence and serves no other.

    The engine calls `mask`, samples, then calls `accept`, all on its decode thread. An error that either
    raises ends that sequence and no other.
    """

    @property
    def must_end(self) -> bool:
        """True once no further token is allowed but the end of the text."""

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        """Set the logits of forbidden tokens, shape [n_vocab], to minus infinity in place.

        End-of-generation tokens are forbidden too, where the text may not end.

        Raises:
            InvalidRequest: the constraint takes more work than is allowed for one token.
        """

    def accept(self, token: int) -> None:
        """Take the token that was sampled; end-of-generation tokens are not passed on.

        Raises:
            InvalidRequest: the constraint takes more work than is allowed for one token.
        """
