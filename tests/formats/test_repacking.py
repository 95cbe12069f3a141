"""Which formats are fast here: our answer, and what llama.cpp does when it loads a model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_models import tiny_llama

from predictor.engine.llama import Model, openblas
from predictor.engine.llama.backend import log_readers
from predictor.engine.llama.cpu import cpu_features, is_repacked
from predictor.engine.llama.quantize import quantise, quantised_bytes
from predictor.formats.advice import log_format
from predictor.formats.repacking import file_type_number, gains_from_openblas, is_quantised, report_format
from predictor.models.gguf import GgufHeader, TensorHeader
from predictor.models.gguf_split import read_parts
from predictor.models.gguf_types import TENSOR_TYPES

Q4_0, Q4_1, F16 = 2, 3, 1


def header(*tensors: TensorHeader) -> list[GgufHeader]:
    return [GgufHeader(Path("m.gguf"), 3, {"general.file_type": 3}, tensors)]


def matrix(name: str, kind: int, columns: int = 512, rows: int = 512, *experts: int) -> TensorHeader:
    block, size = TENSOR_TYPES[kind]
    count = columns * rows * (experts[0] if experts else 1)
    return TensorHeader(name, (columns, rows, *experts), kind, count // block * size)


def only(*kinds: int) -> object:
    return lambda kind, columns, rows, experts: kind in kinds


@pytest.mark.parametrize(("machine", "gains"), [("x86_64", True), ("aarch64", False)])
def test_openblas_is_for_formats_that_x86_multiplies_slowly(
    machine: str, gains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)

    def gain(*matrices: TensorHeader, repacked: tuple[int, ...] = (Q4_0,)) -> bool:
        return gains_from_openblas(header(*matrices), only(*repacked))

    assert gain(matrix("a.weight", Q4_1), matrix("n.weight", Q4_1)) == gains
    assert gain(matrix("a.weight", Q4_1), matrix("n.weight", Q4_0, rows=256)) == gains
    assert not gain(matrix("a.weight", Q4_1), matrix("n.weight", Q4_1), repacked=(Q4_0, Q4_1))
    assert not gain(matrix("a.weight", Q4_1), matrix("b.weight", F16))
    assert not gain(matrix("a.weight", Q4_0), matrix("b.weight", F16))


@pytest.mark.parametrize("quantisation", ["F16", "Q4_0", "Q4_1", "Q8_0", "IQ4_NL"])
def test_the_answer_is_what_llama_cpp_does(tmp_path: Path, quantisation: str) -> None:
    source = tiny_llama(tmp_path / "f32.gguf").path
    model = tmp_path / "m.gguf"
    number = file_type_number(quantisation)
    assert number is not None
    quantise(source, model, number, 1, lambda _done, _all: None)
    messages: list[str] = []
    log_readers.append(messages.append)
    try:
        Model(model).close()
    finally:
        log_readers.remove(messages.append)
    parts = read_parts(model)
    buffers = [
        float(found[1])
        for found in map(re.compile(r"(?:_REPACK|AMX).* size = +([\d.]+) MiB").search, messages)
        if found
    ]
    share = report_format(parts, is_repacked).repacked_share
    assert (share > 0) == bool(buffers)
    if quantisation == "Q4_0" and "AVX2" in cpu_features():
        assert share > 0.5


def test_instruction_sets_have_names() -> None:
    assert cpu_features()
    assert all(re.fullmatch(r"[A-Z0-9_]+", name) for name in cpu_features())


def test_rows_that_do_not_fit_are_not_repacked() -> None:
    if not is_repacked(Q4_0, 512, 512):
        pytest.skip("this CPU has no repacked kernels for Q4_0")
    assert not is_repacked(Q4_0, 512, 511)
    assert is_repacked(Q4_0, 512, 512, 8)


def test_only_matrices_count() -> None:
    parts = header(
        matrix("token_embd.weight", F16),
        matrix("output.weight", Q4_1),
        matrix("blk.0.ffn_up.weight", Q4_0),
        TensorHeader("blk.0.attn_norm.weight", (512,), 0, 2048),
    )
    share = report_format(parts, only(Q4_0)).repacked_share
    assert share == pytest.approx(18 / (18 + 20))


def test_embeddings_count_where_they_are_the_output_matrix_too() -> None:
    parts = header(matrix("token_embd.weight", Q4_1), matrix("blk.0.ffn_up.weight", Q4_0))
    assert report_format(parts, only(Q4_0)).repacked_share == pytest.approx(18 / 38)


@pytest.mark.parametrize(
    ("present", "fast", "expected"),
    [
        (Q4_1, (2, 12, 20), "Q4_0"),
        (Q4_1, (12, 20), "IQ4_NL"),
        (Q4_1, (12,), "Q4_K_M"),
        (8, (2, 12), None),  # Q8_0 is nearly twice as large
        (F16, (2, 8), None),
        (Q4_1, (), None),
        (Q4_1, (Q4_1,), None),  # fast already
    ],
)
def test_the_fastest_of_about_the_same_size(
    present: int, fast: tuple[int, ...], expected: str | None
) -> None:
    report = report_format(header(matrix("blk.0.ffn_up.weight", present)), only(*fast))
    assert report.faster == expected
    assert report.is_fast == (present in fast)


def test_blocks_must_fit_into_the_rows() -> None:
    parts = header(matrix("blk.0.ffn_up.weight", Q4_1, columns=576))
    assert report_format(parts, only(12)).faster is None


def test_types_from_the_future_are_never_asked_about() -> None:
    parts = header(TensorHeader("blk.0.ffn_up.weight", (512, 512), 99, 0))
    assert report_format(parts, is_repacked).repacked_share == 1


def test_quantised_or_not() -> None:
    assert not is_quantised(header(matrix("a", F16), matrix("b", 30)))
    assert is_quantised(header(matrix("a", F16), matrix("b", Q4_0)))


def test_the_size_is_known_before_anything_is_written(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "f32.gguf").path
    target = tmp_path / "q.gguf"
    expected = quantised_bytes(source, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["f32.gguf"]
    seen: list[tuple[int, int]] = []
    quantise(source, target, 2, 1, lambda done, total: seen.append((done, total)))
    parts = read_parts(target)
    assert sum(part.weights_bytes for part in parts) == pytest.approx(expected, abs=10_000)
    count = len(parts[0].tensors)
    assert seen == [(i + 1, count) for i in range(count)]


@pytest.mark.parametrize(
    ("tensors", "said", "not_said"),
    [
        # K formats need rows of a multiple of 256: in models of other widths the tensors fall back to others.
        ([(6, 576), (8, 576), (12, 512)], "Q8_0 and Q5_0", "for this format"),
        ([(Q4_1, 512)], "100% of the weights of this Q4_K_M file are in Q4_1", "Q4_K,"),
    ],
)
def test_the_log_names_the_tensors_formats_and_not_the_files(
    tensors: list[tuple[int, int]], said: str, not_said: str, caplog: pytest.LogCaptureFixture
) -> None:
    matrices = [matrix(f"blk.{i}.ffn_up.weight", kind, columns) for i, (kind, columns) in enumerate(tensors)]
    parts = [GgufHeader(Path("m.gguf"), 3, {"general.file_type": 15}, tuple(matrices))]
    with caplog.at_level("INFO"):
        log_format(report_format(parts, only(2, 12)), Path("m.gguf"))
    (line,) = caplog.messages
    assert said in line
    assert not_said not in line
    assert "docs/" not in line  # A file that who installed the package doesn't have.


def test_what_is_missing_for_openblas_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    backend, library = tmp_path / "libggml-blas.so", tmp_path / "libscipy_openblas.so"
    monkeypatch.setattr(openblas, "_places", lambda: (backend, library))
    assert "scipy-openblas32" in openblas.what_is_missing()
    library.touch()
    assert "`make setup` and the image" in openblas.what_is_missing()
    assert openblas.backend_files() is None
    backend.touch()
    assert openblas.backend_files() == (backend, library)
