"""A radix tree over token prefixes that accounts for every cell of the KV cache.

Each path from a root spells the tokens of one or more llama.cpp sequences, and a node stands for cells
that these sequences share. Each adapter has a root of its own, since other weights compute other cells.
Running sequences hold their path; a finished one is retained until its cells are needed, so that a later
request with the same beginning takes it over instead of computing it. Pure Python: what has to happen in
llama.cpp is written down as operations, which the engine carries out before its next decode.

The idea is RadixAttention's (Zheng et al., 2023, SGLang), over llama.cpp's sequence ids instead of pages.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from predictor.engine.cell_operations import CopyCells, Operation, RemoveCells, SaveCells
from predictor.engine.kv_cache import Match
from predictor.engine.radix_tree import Node, Root, common_prefix

# Shorter ones are computed again in about the time that handling a saved state takes.
WORTH_SAVING_TOKENS = 64


class PrefixCache:
    """Sequence ids and cells, and who holds which.

    Args:
        capacity: cells of the KV cache.
        sequence_ids: number of ids; must be at least the number of sequences that run at once.
        reuse: False where a model can't take over a part of another sequence (recurrent or
            sliding-window); then nothing is ever retained.
        max_retained: most cells held by no running sequence.
        save: whether evicted sequences are to be saved first, where that is worth it.
    """

    def __init__(
        self,
        capacity: int,
        sequence_ids: int,
        *,
        reuse: bool = True,
        max_retained: int | None = None,
        save: bool = False,
    ) -> None:
        self.capacity = capacity
        self.max_retained = capacity if max_retained is None else max_retained
        self.can_restore = save and reuse
        self.used = 0
        self.pinned = 0
        self.queried_tokens = 0
        self.hit_tokens = 0
        self.reuses = reuse
        self._roots: dict[str | None, Root] = {}
        self._free_ids = list(range(sequence_ids - 1, -1, -1))
        self._leaves: dict[int, Node] = {}
        self._retained: OrderedDict[int, None] = OrderedDict()
        self._operations: list[Operation] = []

    def take_operations(self) -> list[Operation]:
        """What llama.cpp must do, in this order, before the next decode."""
        operations, self._operations = self._operations, []
        return operations

    def lookup(self, tokens: Sequence[int], adapter: str | None = None) -> Match:
        """The longest cached beginning: all tokens but the last at most, whose logits must be computed
        anyway. Cells that one adapter computed are never found for another."""
        return Match(*self._root(adapter).walk(tokens, len(tokens) - 1 if self.reuses else 0))

    def newly_pinned(self, match: Match) -> int:
        """How many cells `start` would pin that nobody running holds now."""
        end: Node = match.place
        length, pinned = match.length, 0
        for node in end.path():
            covered = length - node.depth()
            if node.running == 0:
                pinned += covered
            length -= covered
        return pinned

    def start(self, tokens: Sequence[int], match: Match) -> int | None:
        """Give a running sequence an id and the cells of its longest cached beginning.

        Args:
            tokens: of the sequence.
            match: what `lookup` just said of them; nothing was started, ended or evicted since.

        Returns:
            The id; None when none can be had.
        """
        node: Node = match.place
        length = match.length
        if node.parent is not None and length < node.depth() + len(node.tokens):
            node = node.split(length - node.depth())
        if not self._free_ids and not self._evict_oldest(spare=node):
            return None
        sequence_id = self._free_ids.pop()
        self._hold_running(node)
        if length:
            self._operations.append(CopyCells(next(iter(node.ids)), sequence_id, 0, length))
        self._leaves[sequence_id] = node
        for holder in node.path():
            holder.ids.add(sequence_id)
        self.queried_tokens += len(tokens)
        self.hit_tokens += length
        return sequence_id

    def start_empty(self, cells: int, adapter: str | None = None) -> int | None:
        """Give a running sequence an id and room for so many cells; None when either can't be had."""
        if not self.make_room(cells):
            return None
        if not self._free_ids and not self._evict_oldest():
            return None
        sequence_id = self._free_ids.pop()
        self._leaves[sequence_id] = self._root(adapter)
        return sequence_id

    def restored(self, sequence_id: int, tokens: Sequence[int], length: int) -> None:
        """Record that a sequence started empty got cells for its first `length` tokens from elsewhere."""
        self.extend(sequence_id, tokens[:length])
        self.queried_tokens += len(tokens)
        self.hit_tokens += length

    def extend(self, sequence_id: int, tokens: Sequence[int]) -> None:
        """Record that a running sequence computed more tokens into cells of its own."""
        leaf = self._leaves[sequence_id]
        if leaf.parent is None or len(leaf.ids) > 1 or leaf.children:
            child = Node([], leaf, {sequence_id}, 1)
            # An equal path of another sequence may exist; then this one stays beside the tree until it ends.
            leaf.children.setdefault(tokens[0], child)
            self._leaves[sequence_id] = leaf = child
        leaf.tokens.extend(tokens)
        self.used += len(tokens)
        self.pinned += len(tokens)

    def make_room(self, cells: int) -> bool:
        """Evict retained sequences, the longest unused first, until so many cells are free.

        Returns:
            False when the running sequences alone leave too little; retained ones are gone then.
        """
        while self.capacity - self.used < cells:
            if not self._evict_oldest():
                return False
        return True

    def retained(self) -> Iterator[SaveCells]:
        """What is worth saving of the retained sequences, the longest unused first.

        What several of them share is saved with the first.
        """
        covered: set[int] = set()
        for sequence_id in self._retained:
            path = list(self._leaves[sequence_id].path())
            fresh = sum(len(node.tokens) for node in path if id(node) not in covered)
            if self.can_restore and fresh >= WORTH_SAVING_TOKENS:
                covered.update(map(id, path))
                yield self._save_cells(sequence_id, path)

    def finish(self, sequence_id: int, *, retain: bool = True) -> None:
        """A sequence runs no more: keep its cells for others as long as there is room."""
        leaf = self._leaves[sequence_id]
        if retain and self.reuses:
            leaf = self._join_tree(sequence_id, leaf)
        self._release_running(leaf)
        others = leaf.ids - {sequence_id}
        if retain and self.reuses and leaf.parent is not None and not others:
            self._retained[sequence_id] = None
            while self.used - self.pinned > self.max_retained and self._evict_oldest():
                pass
            return
        # Others hold all of it already; their copy was just used, so it should be the last to go.
        for other in others & self._retained.keys():
            self._retained.move_to_end(other)
        self._free(sequence_id)

    def _root(self, adapter: str | None) -> Root:
        root = self._roots.get(adapter)
        if root is None:
            root = self._roots[adapter] = Root([], None, adapter=adapter)
        return root

    def _hold_running(self, node: Node) -> None:
        for holder in node.path():
            if holder.running == 0:
                self.pinned += len(holder.tokens)
            holder.running += 1

    def _release_running(self, node: Node) -> None:
        for holder in node.path():
            holder.running -= 1
            if holder.running == 0:
                self.pinned -= len(holder.tokens)

    def _join_tree(self, sequence_id: int, leaf: Node) -> Node:
        """Merge the part of a finishing sequence that was computed beside the tree into the tree.

        Where the tree already has the same tokens the sequence takes those cells and frees its own.
        """
        parent = leaf.parent
        if parent is None or parent.children.get(leaf.tokens[0]) is leaf:
            return leaf
        tokens, position = leaf.tokens, leaf.depth()
        self._drop_node(leaf)
        node = parent
        while tokens and (child := node.children.get(tokens[0])) is not None:
            shared = common_prefix(child.tokens, tokens)
            if shared < len(child.tokens):
                child = child.split(shared)
            source = next(iter(child.ids))
            self._operations.append(RemoveCells(sequence_id, position, position + shared))
            self._operations.append(CopyCells(source, sequence_id, position, position + shared))
            self._adopt(child, sequence_id)
            tokens, position, node = tokens[shared:], position + shared, child
        if tokens:
            child = Node(list(tokens), node, {sequence_id}, 1)
            node.children[tokens[0]] = child
            self.used += len(tokens)
            self.pinned += len(tokens)
            node = child
        self._leaves[sequence_id] = node
        return node

    def _adopt(self, node: Node, sequence_id: int) -> None:
        node.ids.add(sequence_id)
        if node.running == 0:
            self.pinned += len(node.tokens)
        node.running += 1

    def _drop_node(self, node: Node) -> None:
        """Take away a node that only one running sequence holds."""
        self.used -= len(node.tokens)
        self.pinned -= len(node.tokens)

    def _evict_oldest(self, spare: Node | None = None) -> bool:
        """Evict the retained sequence unused for longest, except the only holder of the node `spare`."""
        for sequence_id in self._retained:
            if spare is None or spare.ids != {sequence_id}:
                del self._retained[sequence_id]
                self._operations.extend(self._saving(sequence_id))
                self._free(sequence_id)
                return True
        return False

    def _saving(self, sequence_id: int) -> Iterator[SaveCells]:
        path = list(self._leaves[sequence_id].path())
        alone = sum(len(node.tokens) for node in path if len(node.ids) == 1)
        if self.can_restore and alone >= WORTH_SAVING_TOKENS:
            yield self._save_cells(sequence_id, path)

    def _save_cells(self, sequence_id: int, path: list[Node]) -> SaveCells:
        tokens = [token for node in reversed(path) for token in node.tokens]
        root = path[-1].parent
        assert isinstance(root, Root)
        return SaveCells(sequence_id, tokens, root.adapter)

    def _free(self, sequence_id: int) -> None:
        """Give an id back, with the cells that nobody else holds."""
        for node in self._leaves.pop(sequence_id).path():
            node.ids.discard(sequence_id)
            if not node.ids:
                self.used -= len(node.tokens)
                assert node.parent is not None
                if node.parent.children.get(node.tokens[0]) is node:
                    del node.parent.children[node.tokens[0]]
        self._operations.append(RemoveCells(sequence_id))
        self._free_ids.append(sequence_id)
