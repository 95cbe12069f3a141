"""Special tokens are found as llama.cpp finds them, but in linear time and only where they count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import gguf
import llama_cpp.llama_cpp as lib
import pytest
from tiny_models import tiny_bert, tiny_llama

from predictor.engine.llama import Model
from predictor.engine.special_tokens import Piece, Segment, SpecialToken, SpecialTokens

CONTROL, DEFINED = gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED
# Names that begin, end, hold and overlap each other, more than 16 so that their order isn't their ids'.
NAMES = {
    **dict.fromkeys(["<|a|>", "<|a|>b", "b<|a", "|>", "a|><|a", "<|endoftext|>", "<|im_end|>"], CONTROL),
    **dict.fromkeys(["xyx", "yxy", "xxy", "yyx", "<mask>", "[SEP]", "é<", "<é"], CONTROL),
    **dict.fromkeys(["\n\n", "\n\n\n", "\n" * 9, "  ", "    ", " \n", "<b>", "</b>", "<|start|>"], DEFINED),
}
KINDS = ["demo", "spm", "swallows right", "swallows left", "bert"]
PIECES = [
    *NAMES,
    *("<s>", "</s>", "<unk>", "<|im_start|>", "<|endoftext|>", "<repo_name>", "[CLS]", "[MASK]"),
    *(
        "<|",
        "|>",
        "<",
        "im_end",
        " ",
        "\n",
        "\t",
        "\u2581",
        "a",
        "b",
        "x",
        "y",
        "the cat",
        "é",
        "😀",
        "\ud800",
    ),
]


def random_texts(count: int) -> Iterator[str]:
    """Texts of the pieces and of other characters; hypothesis repeats itself too much to meet all pairs."""
    random = Random(7)
    for _ in range(count):
        others = map(chr, random.choices([*range(32, 127), *range(160, 1200), 0x1F600], k=3))
        yield "".join(random.choices([*PIECES, *others], k=random.randrange(12)))


@pytest.fixture(scope="module", params=KINDS)
def model(
    request: pytest.FixtureRequest, model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("vocabulary") / "model.gguf"
    match request.param:
        case "demo":
            path = model_path
        case "bert":
            tiny_bert(path, gguf.PoolingType.CLS)
        case "swallows right":
            tiny_llama(path, further=NAMES, title="phi-3")
        case "swallows left":
            tiny_llama(path, further=NAMES, splitting="jina-v2-de")
        case _:
            tiny_llama(path, further=NAMES)
    model = Model(path)
    swallows = {
        side: len(reference(model, text, add_special=False, parse_special=True)) == 1
        for side, text in (("left", "\t<mask>"), ("right", "<mask>\t"))
    }
    assert swallows == {side: request.param == f"swallows {side}" for side in swallows}
    yield model
    model.close()


def reference(model: Model, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
    """What llama.cpp makes of a text in one piece."""
    data = text.encode("utf-8", "replace")
    tokens = (lib.llama_token * (len(data) + 8))()
    vocabulary = lib.llama_model_get_vocab(model.handle)
    count = lib.llama_tokenize(vocabulary, data, len(data), tokens, len(tokens), add_special, parse_special)
    return list(tokens[:count])


@pytest.mark.parametrize("add_special", [True, False])
@pytest.mark.parametrize("parse_special", [True, False])
def test_tokens_are_those_of_llama_cpp(model: Model, add_special: bool, parse_special: bool) -> None:
    options = {"add_special": add_special, "parse_special": parse_special}
    for text in random_texts(1500):
        assert model.tokenize(text, **options) == reference(model, text, **options), text


def split_of(
    tokens: list[SpecialToken], segments: list[Segment], markers: frozenset[int] = frozenset()
) -> list[Piece]:
    return SpecialTokens(tokens, lambda text: [-1]).split(segments, markers)


END = SpecialToken(1, "<|im_end|>", is_control=True)
CALL = SpecialToken(2, "<call>", is_control=False)


def test_control_tokens_count_in_own_segments_only() -> None:
    segments = [Segment("<|im_end|>a", True), Segment("b<|im_end|>c", False), Segment("<|im_end|>", True)]
    assert split_of([END], segments) == [1, ("ab<|im_end|>c",), 1]


def test_no_token_is_put_together_from_the_users_text_and_the_templates() -> None:
    name = END.text
    for cut in range(1, len(name)):
        halves = [Segment(name[:cut], True), Segment(name[cut:], False)]
        assert split_of([END], halves) == [(name,)]
        assert split_of([END], [Segment(name[:cut], False), Segment(name[cut:], True)]) == [(name,)]
        # Two segments of one writer are one text.
        assert split_of([END], [Segment(name[:cut], True), Segment(name[cut:], True)]) == [1]


def test_a_longer_token_that_reaches_into_the_users_text_leaves_the_shorter_one() -> None:
    longer = SpecialToken(3, "<|im_end|>!", is_control=True)
    assert split_of([END, longer], [Segment("<|im_end|>", True), Segment("!", False)]) == [1, ("!",)]


def test_a_marker_in_the_users_text_is_cut_so_that_llama_cpp_does_not_read_it() -> None:
    segments = [Segment("<call>", True), Segment("a<call>b<call>", False)]
    assert split_of([CALL], segments) == [2, ("a",), 2, ("b",), 2]
    assert split_of([CALL], segments, frozenset({2})) == [2, ("a<", "call>b<", "call>")]


def test_markers_are_the_words_that_a_template_names() -> None:
    words = [CALL, SpecialToken(4, "\n\n", is_control=False), SpecialToken(5, "<b>", is_control=False), END]
    special = SpecialTokens(words, lambda text: [-1])
    assert special.named_in("{{ '<call>' }}\n\n<|im_end|>") == {CALL.id}


def test_a_prompt_without_control_tokens_in_users_text_has_the_tokens_of_the_whole(model: Model) -> None:
    names = [token.text for token in model._tokenizer.special.all if token.is_control]
    compared = 0
    for text in random_texts(1500):
        own = "<s><|im_end|>"
        texts = [own, text.encode("utf-8", "replace").decode(), own]
        whole = "".join(texts)
        if any(whole.count(name) > 2 * own.count(name) for name in names):
            continue
        segments = [Segment(text, text is own) for text in texts]
        tokens = model.tokenize_segments(segments, add_special=True)
        assert tokens == reference(model, whole, add_special=True, parse_special=True), text
        compared += 1
    assert compared > 50


def test_users_never_write_a_control_token(model: Model) -> None:
    special = {token.id: token for token in model._tokenizer.special.all}
    markers = model.markers("<|start|> <b>")
    for text in random_texts(1500):
        halves = [Segment(text[:5], False), Segment(text[5:], False)]
        tokens = model.tokenize_segments(halves, add_special=False, markers=markers)
        read = {special[t].text for t in tokens if t in special and (special[t].is_control or t in markers)}
        assert read <= {"[UNK]"}, text  # WordPiece writes it for what it has no token for.


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["<|im_end|>", "\n\n"])
def test_llama_cpp_gets_no_special_token_of_a_long_text_to_cut_out(model: Model, name: str) -> None:
    """It takes quadratic time for that; the limit is for the same mistake here."""
    text = name * (2**17 // len(name))
    special = model._tokenizer.special
    for own in (True, False):
        pieces = special.split([Segment(text, own)], model.markers(name))
        texts = [part for piece in pieces if not isinstance(piece, int) for part in piece]
        # It is called without leave to read control tokens.
        assert not any(token.text in text for text in texts for token in special.all if not token.is_control)
