"""Log lines as text for people or as JSON for collectors, all on standard error."""

from __future__ import annotations

import json
import logging
import logging.config
import warnings
from typing import Any

from predictor.settings import Settings

# Errors of the client that kserve logs as its own, with a traceback; the answer says it all.
_CLIENT_ERRORS = {"InvalidInput", "ModelNotFound", "ModelNotReady"}


def configure_logging(settings: Settings) -> None:
    """Set up every logger of the process, kserve's and uvicorn's included."""
    warnings.filterwarnings("ignore", "ORJSONResponse is deprecated")  # kserve's choice
    level = settings.log_level.upper()
    quiet = "INFO" if settings.log_level == "debug" else "WARNING"
    formatter = "predictor.logs.JsonFormatter" if settings.log_format == "json" else "logging.Formatter"
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"client_errors": {"()": "predictor.logs.ClientErrorFilter"}},
            "formatters": {
                "line": {"()": formatter, "fmt": "%(asctime)s %(levelname)-7s %(name)s: %(message)s"}
            },
            "handlers": {
                "stderr": {
                    "class": "logging.StreamHandler",
                    "formatter": "line",
                    "filters": ["client_errors"],
                }
            },
            "root": {"level": level, "handlers": ["stderr"]},
            "loggers": {
                # A handler of its own keeps kserve from configuring logging again.
                "kserve": {"level": quiet, "handlers": ["stderr"], "propagate": False},
                "uvicorn": {"level": quiet},
                "uvicorn.access": {"level": quiet},
                "httpx": {"level": "WARNING"},
                "predictor.llama": {"level": "DEBUG" if settings.log_llama else level},
            },
        }
    )


class ClientErrorFilter(logging.Filter):
    """Drops the errors that clients cause."""

    def filter(self, record: logging.LogRecord) -> bool:
        """False for such an error."""
        return not (record.exc_info and type(record.exc_info[1]).__name__ in _CLIENT_ERRORS)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the request's id where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
