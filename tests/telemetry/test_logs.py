"""How lines are written, seen from outside: each test runs a small program and reads its standard error."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SETUP = """
import logging, sys
from contextvars import ContextVar
from predictor.telemetry.logs import add_request_fields, configure_logging
from predictor.settings import Settings

configure_logging(Settings(model="m", log_format=sys.argv[1]))
logger = logging.getLogger("predictor.something")
requests = logging.getLogger("predictor.requests")
"""


def program(code: str, log_format: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", SETUP + code, log_format]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines(code: str, log_format: str = "text") -> list[str]:
    _, errors = program(code, log_format).communicate(timeout=60)
    return errors.splitlines()


def objects(code: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(code, "json")]


def test_json_lines_have_time_level_logger_message_and_fields() -> None:
    (line,) = objects('logger.warning("über %d", 3, extra={"fields": {"part": 1}})')
    assert line.pop("time").startswith("20")
    assert line == {"level": "warning", "logger": "predictor.something", "message": "über 3", "part": 1}


def test_a_traceback_stays_in_its_json_line() -> None:
    (line,) = objects('try:\n    1 / 0\nexcept ZeroDivisionError:\n    logger.exception("no")')
    assert line["message"] == "no"
    assert line["exception"].endswith("ZeroDivisionError: division by zero")


def test_text_lines_end_with_the_fields() -> None:
    (line,) = lines('logger.warning("done", extra={"fields": {"part": 1, "of": "two"}})')
    assert line.endswith("WARNING predictor.something: done part=1 of=two")


def test_no_value_makes_a_line_of_its_own() -> None:
    value = "a b\nERROR   predictor: made up \u2028 \x1b[31m"
    (line,) = lines(f'logger.warning("x", extra={{"fields": {{"path": {value!r}}}}})')
    assert json.loads(line.partition("path=")[2]) == value
    assert line.isascii()
    assert line.isprintable()


def test_lines_show_the_id_of_the_request_being_handled() -> None:
    code = """
current = ContextVar("current", default=None)
add_request_fields(request_id=current.get)
token = current.set("first")
logger.warning("inside")
current.reset(token)
logger.warning("outside")
requests.info("ended", extra={"fields": {"request_id": "its own"}})
"""
    assert [line.get("request_id") for line in objects(code)] == ["first", None, "its own"]


def test_nothing_is_lost_at_the_end_of_the_process() -> None:
    assert len(lines('for i in range(1000):\n    requests.info("line %d", i)')) == 1000


def test_a_reader_that_stalls_does_not_hold_up_requests() -> None:
    """A pipe holds 64 KiB; the lines are far more, and nobody reads them until the program is through."""
    code = 'for i in range(3000):\n    requests.info("x" * 100)\nprint("through", flush=True)'
    with program(code, "text") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "through\n"
        assert len(process.communicate(timeout=60)[1].splitlines()) == 3000
