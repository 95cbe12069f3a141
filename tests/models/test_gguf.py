"""GGUF headers: what a real model says, and what damaged or hostile files do."""

from __future__ import annotations

import contextlib
import shutil
import struct
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predictor.errors import ModelLoadError
from predictor.models.cache_size import CacheShape, cache_bytes
from predictor.models.gguf import SkippedArray, read_header
from predictor.models.gguf_split import SplitName, read_parts
from predictor.models.gguf_types import FILE_TYPES, REMOVED_TENSOR_TYPES, TENSOR_TYPES
from predictor.models.memory import check_memory
from tests.tiny_gguf import TENSORS, TINY, Tensor, string, tiny_gguf

ONE_KEY = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("k")
ODD_ALIGNMENT = tiny_gguf({**TINY, "general.alignment": 32}).replace(
    b"alignment\x04\0\0\0\x20", b"alignment\x04\0\0\0\x21"
)


def write(folder: Path, content: bytes, name: str = "model.gguf") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def failure(path: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        read_header(path)
    assert str(path) in caught.value.message
    return caught.value.message


def test_the_demo_model(model_path: Path) -> None:
    header = read_header(model_path)
    assert (header.architecture, header.quantisation) == ("llama", "Q4_1")
    assert (header.context_length, header.layers, len(header.tensors)) == (8192, 30, 272)
    assert (header.split_count, header.split_number) == (1, 0)
    assert header.metadata["llama.attention.head_count_kv"] == 3
    assert header.metadata["tokenizer.ggml.tokens"] == SkippedArray(49152)
    assert isinstance(header.metadata["tokenizer.chat_template"], str)
    assert 0.97 < header.weights_bytes / model_path.stat().st_size < 1


def test_the_demo_model_is_read_fast(model_path: Path) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        read_header(model_path)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.1


def test_the_kv_cache_is_what_llama_cpp_allocates(model_path: Path) -> None:
    # "llama_kv_cache: size = 22.50 MiB (1024 cells, 30 layers), K (f16)" in llama.cpp's log.
    assert cache_bytes(read_header(model_path), CacheShape(1024)) == 22.5 * 2**20


def test_type_tables_agree_with_llama_cpp() -> None:
    import ctypes

    import llama_cpp

    ggml = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    ggml.ggml_blck_size.restype, ggml.ggml_type_size.restype = ctypes.c_int64, ctypes.c_size_t
    known = {number: (ggml.ggml_blck_size(number), ggml.ggml_type_size(number)) for number in range(43)}
    assert {number: sizes for number, sizes in known.items() if sizes != (0, 0)} == TENSOR_TYPES
    assert {number for number, sizes in known.items() if sizes == (0, 0)} == REMOVED_TENSOR_TYPES
    prefix = "LLAMA_FTYPE_MOSTLY_"
    names = {value: name.removeprefix(prefix) for name, value in vars(llama_cpp).items() if prefix in name}
    assert FILE_TYPES.items() >= {number: names[number] for number in FILE_TYPES if number in names}.items()
    assert len(FILE_TYPES.keys() & names.keys()) > 30


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.02])
def test_a_truncated_demo_model(model_path: Path, tmp_path: Path, kept: float) -> None:
    size = model_path.stat().st_size
    path = tmp_path / "cut.gguf"
    shutil.copyfile(model_path, path)
    with path.open("r+b") as file:
        file.truncate(int(size * kept))
    message = failure(path)
    assert "truncated" in message
    assert f"{int(size * kept):,} bytes" in message
    assert "get the file again" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"GG", "starts with b'GG'"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"PK\x03\x04 and so on", "PyTorch"),
        (b'{"not": "a model"}', "instead of b'GGUF'"),
    ],
)
def test_not_a_gguf(tmp_path: Path, content: bytes, said: str) -> None:
    message = failure(write(tmp_path, content))
    assert "not a GGUF file" in message
    assert said in message


@pytest.mark.parametrize("padding", range(4))
def test_one_missing_byte_is_noticed(tmp_path: Path, padding: int) -> None:
    content = tiny_gguf({**TINY, "general.name": "n" * padding})
    assert len(read_header(write(tmp_path, content)).tensors) == 2
    assert f"its tensors need {len(content):,}" in failure(write(tmp_path, content[:-1]))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "No such file" in failure(tmp_path / "none.gguf")
    assert "directory" in failure(tmp_path)


def test_a_tiny_file(tmp_path: Path) -> None:
    header = read_header(write(tmp_path, tiny_gguf({**TINY, "general.alignment": 64, "some.list": [1, 2]})))
    assert header.quantisation == "Q4_K_M"
    assert header.weights_bytes == sum(tensor.size for tensor in TENSORS)
    assert header.metadata["some.list"] == (1, 2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1 is not supported"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "tensors, more than the file can hold"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), "metadata entries, more than"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**50) + bytes(9), "is 1,125,899,906,842,624 bytes long"),
        (ONE_KEY + struct.pack("<I", 99), "unknown type 99"),
        (
            ONE_KEY + struct.pack("<IIQ", 9, 8, 2**24) + bytes(64),
            "strings in 'k', more than",
        ),
        (
            ONE_KEY + struct.pack("<IIQ", 9, 4, 2**61),
            "items in 'k', more than",
        ),
        (ONE_KEY + struct.pack("<IIQ", 9, 9, 1), "array of the unknown"),
        (tiny_gguf().replace(string("general.file_type"), string("llama.block_count")), "repeated"),
        (ONE_KEY + struct.pack("<IIQQ", 9, 8, 3, 2**40) + bytes(64), "end inside the header"),
        (ODD_ALIGNMENT, "power of two"),
        (tiny_gguf(tensors=(Tensor("t", (64,), 4, 64),)), "llama.cpp dropped"),
        (tiny_gguf(tensors=(Tensor("t", (63,), 2, 64),)), "impossible shape"),
        (tiny_gguf(tensors=(Tensor("t", (2**32, 2**32), 0, 64),)), "impossible shape"),
        (tiny_gguf(tensors=(Tensor("t", (1,) * 5, 0, 4),)), "5 dimensions"),
        (tiny_gguf(tensors=(Tensor("t", (1,), 0, 4),) * 2), "appears twice"),
        (tiny_gguf(tensors=(Tensor("t" * 64, (1,), 0, 4),)), "at most 63"),
    ],
)  # fmt: skip
def test_hostile_headers(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in failure(write(tmp_path, content))


def test_metadata_of_the_wrong_type(tmp_path: Path) -> None:
    header = read_header(write(tmp_path, tiny_gguf({**TINY, "llama.block_count": "many"})))
    with pytest.raises(ModelLoadError, match=r"block_count must be an integer, not 'many'"):
        _ = header.layers


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=6),
    cut=st.none() | st.integers(0, 5000),
)
def test_a_mutated_file_only_ever_raises_the_typed_error(
    tmp_path: Path, changes: list[tuple[int, int]], cut: int | None
) -> None:
    content = bytearray(tiny_gguf({**TINY, "tokenizer.ggml.tokens": ["a", "bc"], "llama.rope": [1.0, 2.0]}))
    for position, byte in changes:
        content[position] = byte
    path = write(tmp_path, bytes(content[:cut]))
    # Any other exception fails the test.
    with contextlib.suppress(ModelLoadError):
        header = read_header(path)
        assert header.split_count >= 1
        assert check_memory([header], CacheShape(1024), None).total >= 0


def estimate(folder: Path, **changes: object) -> int:
    """KV cache of 1,024 tokens with llama metadata changed; 2 layers, 2 KV heads of size 16."""
    metadata = {**TINY, **{f"llama.{key.replace('__', '.')}": item for key, item in changes.items()}}
    return cache_bytes(read_header(write(folder, tiny_gguf(metadata))), CacheShape(1000))


def test_kv_cache_of_unusual_models(tmp_path: Path) -> None:
    layer = 1024 * 2 * (16 + 16) * 2
    assert estimate(tmp_path) == 2 * layer
    assert estimate(tmp_path, attention__head_count_kv=[2, 0]) == layer
    assert estimate(tmp_path, attention__key_length=32) == 3 * layer
    assert estimate(tmp_path, attention__key_length=32, attention__key_length_mla=16) == 2 * layer
    # llama.cpp keeps the whole cache of sliding layers unless it is told otherwise.
    assert estimate(tmp_path, attention__sliding_window=100) == 2 * layer
    assert estimate(tmp_path, attention__shared_kv_layers=1) == layer
    assert estimate(tmp_path, attention__head_count=0) == 0
    header = read_header(write(tmp_path, tiny_gguf()))
    assert cache_bytes(header, CacheShape(1000, number_type="q8_0")) == 2 * layer * 34 // 64


def test_absurd_shapes_are_refused(tmp_path: Path) -> None:
    for changes in (
        {"block_count": 10**9},
        {"attention__head_count_kv": [1]},
        {"attention__head_count_kv": "x"},
    ):
        with pytest.raises(ModelLoadError, match="llama"):
            estimate(tmp_path, **changes)


def test_a_model_that_does_not_fit(model_path: Path) -> None:
    parts = read_parts(model_path)
    fits = check_memory(parts, CacheShape(8192), 300_000_000)
    assert fits.total == fits.weights + 180 * 2**20
    assert check_memory(parts, CacheShape(8192), fits.total) == fits
    with pytest.raises(ModelLoadError) as caught:
        check_memory(parts, CacheShape(8192), fits.total - 1)
    message = caught.value.message
    assert "0.09 GiB of weights and 0.18 GiB of KV cache for 8,192 tokens" in message
    assert "the limit is 0.27 GiB" in message
    assert "smaller context" in message
    with pytest.raises(ModelLoadError) as caught:
        check_memory(parts, CacheShape(8192), 50_000_000)
    assert "smaller context" not in caught.value.message
    assert check_memory(parts, CacheShape(8192), None) == fits


def split(folder: Path, number: int, count: int = 3, *, named: str | None = None) -> Path:
    metadata = {"split.no": number, "split.count": count}
    name = named or f"big-{number + 1:05d}-of-{count:05d}.gguf"
    return write(folder, tiny_gguf({**TINY, **metadata} if number == 0 else metadata), name)


def test_a_split_model(tmp_path: Path) -> None:
    first, *_ = (split(tmp_path, number) for number in range(3))
    parts = read_parts(first)
    assert [part.split_number for part in parts] == [0, 1, 2]
    assert check_memory(parts, CacheShape(10), None).weights == 3 * sum(tensor.size for tensor in TENSORS)


def test_split_models_that_can_not_be_loaded(tmp_path: Path) -> None:
    first, second = split(tmp_path, 0), split(tmp_path, 1)
    with pytest.raises(ModelLoadError, match=r"big-00003-of-00003.gguf can't be read"):
        read_parts(first)
    with pytest.raises(ModelLoadError, match=r"give the first one: big-00001-of-00003.gguf"):
        read_parts(second)
    shutil.copyfile(second, tmp_path / "big-00003-of-00003.gguf")
    with pytest.raises(ModelLoadError, match="doesn't belong"):
        read_parts(first)
    with pytest.raises(ModelLoadError, match="give all parts their original names"):
        read_parts(split(tmp_path, 0, named="renamed.gguf"))


def test_names_of_parts() -> None:
    name = SplitName.parse("sub/m-00002-of-00002.gguf")
    assert name is not None
    assert name.names == ("sub/m-00001-of-00002.gguf", "sub/m-00002-of-00002.gguf")
    assert SplitName.parse("m.gguf") is None
    assert SplitName.parse("m-00000-of-00002.gguf") is None
    assert SplitName.parse("m-00003-of-00002.gguf") is None
