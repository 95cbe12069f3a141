"""TLS certificates from files that may change while the server runs."""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from predictor.errors import StartupError

if TYPE_CHECKING:
    import grpc

logger = logging.getLogger(__name__)

RENEW_SECONDS = 5


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A server's certificate chain and its private key, both in PEM."""

    certificate: Path
    key: Path

    def check(self) -> None:
        """Make sure that they can be used.

        Raises:
            StartupError: they can't be read, or don't belong together.
        """
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                self.certificate, self.key, password=_no_password
            )
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise StartupError(
                f"the TLS certificate {self.certificate} and key {self.key} can't be used: {error}"
            ) from None

    def read(self) -> tuple[bytes, bytes]:
        """The certificate chain and the key.

        Raises:
            OSError: one of them can't be read.
        """
        return self.certificate.read_bytes(), self.key.read_bytes()


def _no_password() -> str:
    raise ValueError("the key is protected by a password; give one that is not")


class CertificateWatch:
    """Notices when the files have been exchanged for others.

    Args:
        files: usable ones.
    """

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self.content = files.read()

    def renewed(self) -> bool:
        """Whether `content` has changed since the last call; files that can't be used change nothing."""
        try:
            content = self._files.read()
            if content == self.content:
                return False
            self._files.check()
        except (OSError, StartupError) as error:
            logger.error("the TLS certificate in use stays: %s", error)
            return False
        self.content = content
        logger.info("using the renewed TLS certificate %s", self._files.certificate)
        return True


async def renew_certificate(files: CertificateFiles, context: ssl.SSLContext) -> None:
    """Load the files into `context` whenever they have changed; never returns.

    kserve's own watch loses a mounted Secret, whose files are links into a folder that is exchanged.
    """
    watch = CertificateWatch(files)
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        if watch.renewed():
            try:
                context.load_cert_chain(files.certificate, files.key)
            except OSError as error:  # exchanged once more, which the next look finds
                logger.error("the TLS certificate in use stays: %s", error)


def grpc_credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """Credentials that look at the files for each new connection."""
    import grpc

    watch = CertificateWatch(files)

    def configuration() -> grpc.ServerCertificateConfiguration:
        certificate, key = watch.content
        return grpc.ssl_server_certificate_configuration([(key, certificate)])

    return grpc.dynamic_ssl_server_credentials(
        configuration(), lambda: configuration() if watch.renewed() else None
    )
