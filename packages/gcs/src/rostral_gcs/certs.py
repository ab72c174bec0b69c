"""A cluster's own certificate authority: made, used and changed from the command line.

A folder, mode 0700, holds ``ca.crt`` (whom all trust: one certificate, or two while the authority
is changed), ``ca.key`` (keep it off the nodes) and ``NAME.crt`` with ``NAME.key`` for each process
or machine. Keys are of mode 0600. The only import of cryptography is in here: the extra ``certs``.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rostral_gcs.auth import replace_file
from rostral_gcs.errors import AlreadyExistsError, ConfigError, InvalidArgumentError, NotFoundError

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as error:
    raise ConfigError(
        "certificates need the package cryptography", hint="pip install 'rostral-gcs[certs]'"
    ) from error

__all__ = ["Issued", "finish_ca_rotation", "init_ca", "issue", "rotate", "rotate_ca"]

CA_DAYS: Final = 3650
LEAF_DAYS: Final = 365
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Clocks of machines differ; a certificate that is not valid yet is a riddle to whoever meets it.
_CLOCK_SKEW: Final = dt.timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """What was made.

    Attributes:
        certificate_file: PEM.
        key_file: PEM, mode 0600.
        ca_file: PEM, whom to trust.
        until: When it ends.
    """

    certificate_file: Path
    key_file: Path
    ca_file: Path
    until: dt.datetime


def init_ca(folder: Path, *, days: float = CA_DAYS) -> Issued:
    """Makes the folder, and in it the authority.

    Raises:
        AlreadyExistsError: There is one.
        ConfigError: The folder cannot be made or written to.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {folder}: {error.strerror}") from error
    if (folder / "ca.key").exists():
        raise AlreadyExistsError(
            f"{folder} holds an authority already", hint="use it, or rotate it with: --ca"
        )
    key, certificate = _new_ca(days)
    return _write_pair(folder, "ca", key, [certificate])


def issue(
    folder: Path,
    name: str,
    *,
    hosts: Sequence[str],
    days: float = LEAF_DAYS,
    server: bool = True,
) -> Issued:
    """Makes a key and a certificate that the authority signs.

    Args:
        folder: Of the authority.
        name: Of the files, and in the certificate.
        hosts: Names and addresses at which others reach the process.
        days: How long it is valid; fractions are allowed.
        server: Whether others may connect to its holder; False for drivers.

    Raises:
        AlreadyExistsError: There is one of that name.
        NotFoundError: The folder holds no authority.
        InvalidArgumentError: A name or host makes no sense.
    """
    names = _alternatives(name, hosts, server=server)
    if (folder / f"{name}.key").exists():
        raise AlreadyExistsError(
            f"{folder} holds a certificate named {name} already",
            hint=f"make a new one in its place with: rostral certs rotate {name}",
        )
    return _issue(folder, name, names, days, server=server)


def rotate(folder: Path, name: str, *, days: float = LEAF_DAYS) -> Issued:
    """Makes a new key and certificate for the same name and hosts; running servers take them up.

    Raises:
        NotFoundError: There is none of that name, or no authority.
    """
    path = folder / f"{name}.crt"
    if name == "ca" or not _NAME.fullmatch(name) or not path.is_file():
        raise NotFoundError(
            f"{folder} holds no certificate named {name[:80]}",
            hint="make one with: rostral certs issue",
        )
    old = x509.load_pem_x509_certificate(path.read_bytes())
    names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usage = old.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    is_server = ExtendedKeyUsageOID.SERVER_AUTH in usage
    return _issue(folder, name, list(names), days, server=is_server)


def rotate_ca(folder: Path, *, days: float = CA_DAYS) -> Issued:
    """Makes a new authority beside the old one: ``ca.crt`` then names both, so both are trusted.

    Bring the new ``ca.crt`` to every machine, rotate every certificate, then finish.

    Raises:
        NotFoundError: The folder holds no authority.
    """
    _load_ca(folder)
    trusted = x509.load_pem_x509_certificates((folder / "ca.crt").read_bytes())
    key, certificate = _new_ca(days)
    return _write_pair(folder, "ca", key, [certificate, trusted[0]])


def finish_ca_rotation(folder: Path) -> Issued:
    """Trusts the newest authority alone from here on.

    Raises:
        NotFoundError: The folder holds no authority.
    """
    key, certificate = _load_ca(folder)
    return _write_pair(folder, "ca", key, [certificate])


def _new_ca(days: float) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    # Two authorities of one name would be mistaken for each other while both are trusted.
    serial = x509.random_serial_number()
    name = _subject(f"rostral cluster {serial & 0xFFFFFFFF:08x}")
    certificate = (
        _builder(name, key.public_key(), days, serial)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _issue(
    folder: Path, name: str, names: list[x509.GeneralName], days: float, *, server: bool
) -> Issued:
    ca_key, ca = _load_ca(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if server:
        purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
    certificate = (
        _builder(_subject(name), key.public_key(), days, x509.random_serial_number())
        .issuer_name(ca.subject)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    return _write_pair(folder, name, key, [certificate])


def _builder(
    subject: x509.Name, public_key: ec.EllipticCurvePublicKey, days: float, serial: int
) -> x509.CertificateBuilder:
    if not 0 < days <= 36500:
        raise InvalidArgumentError(f"{days:g} days; allowed: more than 0, at most 36500")
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(name: str, hosts: Sequence[str], *, server: bool) -> list[x509.GeneralName]:
    if name == "ca" or not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"{name[:80]!r} is no name of a certificate: letters, digits, _, . and -, and not ca"
        )
    if server and not hosts:
        raise InvalidArgumentError(
            f"no host is given for {name}",
            hint="say at which names and addresses others reach it: --host",
        )
    found: list[x509.GeneralName] = []
    for host in hosts or [name]:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
            continue
        except ValueError:
            pass
        if not _NAME.fullmatch(host):
            raise InvalidArgumentError(f"{host[:80]!r} is no host name or address")
        found.append(x509.DNSName(host))
    return found


def _load_ca(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    try:
        pem = (folder / "ca.key").read_bytes()
        certificates = x509.load_pem_x509_certificates((folder / "ca.crt").read_bytes())
        key = serialization.load_pem_private_key(pem, None)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{folder} holds no authority", hint="make one with: rostral certs init"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"the authority in {folder} cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{folder}/ca.key is not a key that rostral certs init makes")
    return key, certificates[0]


def _write_pair(
    folder: Path,
    name: str,
    key: ec.EllipticCurvePrivateKey,
    certificates: Sequence[x509.Certificate],
) -> Issued:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    chain = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)
    # A server that reads between the two sees a pair that does not fit, and keeps what it has.
    replace_file(folder / f"{name}.key", pem.decode())
    replace_file(folder / f"{name}.crt", chain.decode())
    os.chmod(folder / f"{name}.crt", 0o644)
    return Issued(
        certificate_file=folder / f"{name}.crt",
        key_file=folder / f"{name}.key",
        ca_file=folder / "ca.crt",
        until=certificates[0].not_valid_after_utc,
    )
