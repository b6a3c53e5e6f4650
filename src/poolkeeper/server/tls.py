"""The certificate of the server: loaded at the start, and again while it serves."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pathlib import Path


class CertificateError(Exception):
    """The files of a certificate cannot be used; the message says which and what to do."""


class Certificate:
    """A certificate chain and its key, in PEM files that something else renews.

    Args:
        chain: The server's certificate, followed by those of the authorities between.
        key: Its private key, without a passphrase; None where ``chain`` holds it, too.

    Raises:
        CertificateError: They cannot be read, are none, or do not belong together.
    """

    def __init__(self, chain: Path, key: Path | None = None) -> None:
        self._chain = chain
        self._key = key
        self.context = self._load()

    def reload(self) -> None:
        """Use what the files hold now for new connections; those that are open keep theirs.

        Raises:
            CertificateError: As on loading; the certificate in use stays in use.
        """
        # Tried out elsewhere first: the context in use must not get one file without the other.
        self._load()
        self._read_into(self.context)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self._read_into(context)
        return context

    def _read_into(self, context: ssl.SSLContext) -> None:
        for path in (self._chain, self._key):
            if path is not None:
                _must_be_readable(path)
        try:
            context.load_cert_chain(self._chain, self._key, password=_no_passphrase)
        except ssl.SSLError as error:
            raise self._explain(error) from error

    def _explain(self, error: ssl.SSLError) -> CertificateError:
        key = self._key or self._chain
        if error.reason == "KEY_VALUES_MISMATCH":
            return CertificateError(
                f"The key in {key} does not belong to the certificate in {self._chain}. "
                "Suggestion: give the two files that were issued together to --tls-cert and "
                "--tls-key."
            )
        return CertificateError(
            f"There is no certificate with its key in PEM form in {self._chain} and {key} "
            f"({error.reason or error}). Suggestion: --tls-cert takes the certificate followed by "
            "those of the authorities between, --tls-key its private key."
        )


def _must_be_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise CertificateError(
            f"{path} cannot be read: {error.strerror}. "
            "Suggestion: check the name and who may read the file."
        ) from error


def _no_passphrase() -> NoReturn:
    raise CertificateError(
        "The private key is protected by a passphrase, which nobody is there to type. "
        "Suggestion: remove it with `openssl pkey -in KEY -out NEW` and keep the file readable "
        "for the server only."
    )
