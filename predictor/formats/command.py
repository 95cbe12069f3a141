"""`kserve-llamacpp models convert`: plans, asks, converts, measures and shows what came of it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
from rich.prompt import Confirm
from rich.table import Table

from predictor.cgroup import default_threads
from predictor.engine.llama.cpu import is_repacked
from predictor.errors import ConversionError
from predictor.formats.convert import Conversion, convert, plan_conversion
from predictor.formats.measure import Measurement, default_text, measure
from predictor.formats.repacking import is_quantised, report_format
from predictor.models.gguf import GgufHeader
from predictor.models.gguf_split import read_parts
from predictor.models.storage import resolve_model

MIB = 2**20
EXIT_INTERRUPTED = 130
_QUANTISATION = re.compile(r"[-._](?:[IT]?Q\d\w*|F16|F32|BF16|MXFP4\w*)(-\d{5}-of-\d{5})?$", re.I)


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """What the user asked for.

    Attributes:
        reference: the model, as for `serve`.
        model_file: which of several.
        target: where to write, None for beside the model.
        quantisation: name of the format, None to choose one.
        text: what perplexity is measured on, None for the text that comes with the package.
        yes: convert without asking.
    """

    reference: str
    model_file: str | None
    target: Path | None
    quantisation: str | None
    text: Path | None
    yes: bool


def run_convert(options: ConvertOptions) -> None:
    """Do it, with progress bars on standard error and the results on standard output.

    Raises:
        PredictorError: the model can't be read or converted, or the user doesn't want to.
    """
    text = _read_text(options.text)
    source = resolve_model(options.reference, model_file=options.model_file)
    parts = read_parts(source)
    quantisation = options.quantisation or _choose(parts)
    is_download = "://" in options.reference
    target = options.target or _target(source, quantisation, Path() if is_download else source.parent)
    header_bytes = sum(part.path.stat().st_size - part.weights_bytes for part in parts)
    conversion = plan_conversion(source, target, quantisation, header_bytes)
    notes = Console(stderr=True, soft_wrap=True, highlight=False)
    _announce(notes, parts, conversion)
    _confirm(notes, options.yes)
    before, after = _convert_and_measure(notes, conversion, text)
    old_size = sum(part.path.stat().st_size for part in parts)
    table = _table(parts[0].quantisation, old_size, before, conversion, after)
    Console(highlight=False).print(table)
    name = "Newton's Opticks" if options.text is None else str(options.text)
    Console(highlight=False, soft_wrap=True).print(
        f"Perplexity over {after.scored_tokens} tokens of {name}; lower is better. Wrote {target}"
    )


def _convert_and_measure(
    notes: Console, conversion: Conversion, text: str
) -> tuple[Measurement, Measurement]:
    threads = default_threads()
    with _bar(notes, f"measuring {conversion.source.name}") as step:
        before = measure(conversion.source, text, threads, lambda share: step(round(share * 100), 100))
    try:
        with _bar(notes, f"converting to {conversion.quantisation}", tensors=True) as step:
            convert(conversion, threads, step)
    except KeyboardInterrupt:
        notes.print("stopped; nothing was written")
        # llama.cpp still computes on its thread, and Python would wait for it.
        sys.stderr.flush()
        os._exit(EXIT_INTERRUPTED)
    with _bar(notes, f"measuring {conversion.target.name}") as step:
        after = measure(conversion.target, text, threads, lambda share: step(round(share * 100), 100))
    return before, after


@contextmanager
def _bar(notes: Console, title: str, *, tensors: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, and what moves it: how much is done and how much there is. Lines without a terminal."""
    if not notes.is_terminal:
        yield _lines(notes, title)
        return
    count = (MofNCompleteColumn(), TextColumn("tensors")) if tensors else (TaskProgressColumn(),)
    with Progress(TextColumn("{task.description}"), BarColumn(), *count, console=notes) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _lines(notes: Console, title: str) -> Callable[[int, int], None]:
    """Tells of every tenth part that is done, in a line of its own."""
    told = -1

    def step(done: int, total: int) -> None:
        nonlocal told
        tenths = 10 * done // total if total else 0
        if tenths > told:
            told = tenths
            notes.print(f"{title}: {tenths * 10}%")

    return step


def _read_text(path: Path | None) -> str:
    if path is None:
        return default_text()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"the text {path} can't be read: {error}") from error


def _choose(parts: Sequence[GgufHeader]) -> str:
    report = report_format(parts, is_repacked)
    if report.is_fast:
        raise ConversionError(
            f"{report.quantisation} is fast on this CPU already: llama.cpp repacks "
            f"{report.repacked_share:.0%} of the weights; for another format all the same, use --to"
        )
    if report.faster is None:
        raise ConversionError(
            f"no format of about the size of {report.quantisation} is faster on this CPU; "
            "for a smaller or larger one, use --to, such as --to Q4_0"
        )
    return report.faster


def _target(source: Path, quantisation: str, folder: Path) -> Path:
    """The model's name with the new format in the place of the old one, or behind the name."""
    stem = _QUANTISATION.sub("", source.stem)
    separator = "." if source.stem[len(stem) :].startswith(".") else "-"
    return folder / f"{stem}{separator}{quantisation.upper()}.gguf"


def _announce(notes: Console, parts: Sequence[GgufHeader], conversion: Conversion) -> None:
    present = sum(part.weights_bytes for part in parts)
    notes.print(
        f"{conversion.source} ({parts[0].quantisation}, {present / MIB:,.0f} MiB of weights) becomes "
        f"{conversion.target} ({conversion.quantisation}, {conversion.tensor_bytes / MIB:,.0f} MiB)"
    )
    if is_quantised(parts):
        notes.print(
            "The weights are quantised already and lose precision a second time. Converting the original "
            "F16 or BF16 model gives a better result."
        )


def _confirm(notes: Console, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConversionError("there is no terminal to ask on: give --yes to convert without asking")
    if not Confirm.ask("Convert?", console=notes, default=True):
        raise ConversionError("nothing was converted")


def _table(
    quantisation: str, old_size: int, before: Measurement, conversion: Conversion, after: Measurement
) -> Table:
    table = Table("", quantisation, conversion.quantisation, "ratio")
    for column in table.columns[1:]:
        column.justify = "right"
    new_size = conversion.target.stat().st_size
    rows = (
        ("size, MiB", old_size / MIB, new_size / MIB),
        ("prefill, tokens/s", before.prefill, after.prefill),
        ("decode, tokens/s", before.decode, after.decode),
        ("perplexity", before.perplexity, after.perplexity),
    )
    for name, old, new in rows:
        table.add_row(name, f"{old:,.1f}", f"{new:,.1f}", f"{new / old:.2f}")
    return table
