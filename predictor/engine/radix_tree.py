"""A radix tree over tokens: each path from the root spells the tokens of one or more llama.cpp sequences.

A node stands for cells that these sequences share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Node:
    """Cells for `tokens`, following those of `parent`, held by the sequences `ids`."""

    tokens: list[int]
    parent: Node | None
    ids: set[int] = field(default_factory=set)
    running: int = 0
    children: dict[int, Node] = field(default_factory=dict)

    def depth(self) -> int:
        """Position of the first token."""
        node, count = self.parent, 0
        while node is not None:
            count += len(node.tokens)
            node = node.parent
        return count

    def path(self) -> list[Node]:
        """This node and those above it, the root left out."""
        path = []
        node: Node = self
        while node.parent is not None:
            path.append(node)
            node = node.parent
        return path

    def split(self, length: int) -> Node:
        """Cut the node in two and return the upper part; it stays the lower itself, as leaves point to it."""
        assert self.parent is not None
        upper = Node(self.tokens[:length], self.parent, set(self.ids), self.running)
        if self.parent.children.get(self.tokens[0]) is self:
            self.parent.children[self.tokens[0]] = upper
        self.tokens = self.tokens[length:]
        self.parent = upper
        upper.children[self.tokens[0]] = self
        return upper

    def walk(self, tokens: Sequence[int], limit: int) -> tuple[Node, int]:
        """The deepest node sharing some of the first `limit` tokens, and the number shared until there."""
        node, length = self, 0
        while length < limit:
            child = node.children.get(tokens[length])
            if child is None:
                break
            shared = common_prefix(child.tokens, tokens[length:limit])
            node, length = child, length + shared
            if shared < len(child.tokens):
                break
        return node, length


@dataclass(slots=True, eq=False)
class Root(Node):
    """Where all paths of one adapter begin; None is the model without any."""

    adapter: str | None = None


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    limit, block, length = min(len(first), len(second)), 64, 0
    # Slices compare in C, which is many times faster than a loop over long prompts.
    while length + block <= limit and first[length : length + block] == second[length : length + block]:
        length += block
    while length < limit and first[length] == second[length]:
        length += 1
    return length
