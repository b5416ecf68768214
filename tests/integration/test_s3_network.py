"""S3 behind a certificate of the company's own, and behind a proxy: reading and writing alike."""

from __future__ import annotations

import datetime
import ipaddress
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.s3_servers import new_bucket, start_middle, use_server
from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, open_store
from ufgvc.synthetic import SynthSettings, synthesize

PROXIES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "AWS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def try_everything(store: Store) -> None:
    store.write_bytes("a/b", b"leaf")
    assert store.list() == ["a/b"]
    assert (store.size("a/b"), store.exists("a/c"), store.read_bytes("a/b")) == (4, False, b"leaf")
    with store.open_input("a/b") as file:
        assert file.read() == b"leaf"
    store.delete("a/b")
    assert store.list() == []


def make_certificates(folder: Path) -> Path:
    """An authority (ca.pem) and a server's certificate of 127.0.0.1 signed by it (server.pem, key.pem)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("ca", "server")}
    names = {name: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"leaf {name}")]) for name in keys}
    now = datetime.datetime.now(datetime.UTC)
    for name, key in keys.items():
        builder = (
            x509.CertificateBuilder().subject_name(names[name]).issuer_name(names["ca"]).public_key(key.public_key())
        )
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=2))
        builder = builder.add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        (folder / f"{name}.pem").write_bytes(
            builder.sign(keys["ca"], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(keys["server"].private_bytes(*plain))
    return folder


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def https(certificates: Path, s3_endpoint: str, free_port: Callable[[], int], tmp_path: Path) -> Iterator[str]:
    options = [
        "--upstream",
        s3_endpoint,
        "--certificate",
        str(certificates / "server.pem"),
        "--key",
        str(certificates / "key.pem"),
    ]
    with start_middle(free_port(), tmp_path, options) as url:
        yield url.replace("http:", "https:")


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_certificate_of_the_companys_own(
    variable: str, https: str, s3_endpoint: str, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = new_bucket(s3_endpoint)
    use_server(https, monkeypatch)
    monkeypatch.setenv(variable, str(certificates / "ca.pem"))
    try_everything(open_store(f"s3://{bucket}/place"))


@pytest.mark.parametrize(
    "act", [lambda store: store.read_bytes("a"), lambda store: store.write_bytes("a", b""), lambda store: store.list()]
)
def test_a_certificate_that_nobody_vouches_for(
    act: Callable[[Store], object], https: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_server(https, monkeypatch)
    with pytest.raises(UserError, match=r"certificate is not trusted.*\n.*AWS_CA_BUNDLE or SSL_CERT_FILE"):
        act(open_store("s3://leaf/place"))


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_certificate_file_that_is_none(
    variable: str, content: str | None, https: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content:
        (tmp_path / "ca.pem").write_text(content)
    use_server(https, monkeypatch)
    monkeypatch.setenv(variable, str(tmp_path / "ca.pem"))
    with pytest.raises(UserError, match=r"ca.pem(.*\n)+.*AWS_CA_BUNDLE"):
        open_store("s3://leaf/place").read_bytes("a")


@pytest.fixture
def proxy(free_port: Callable[[], int], tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a proxy and the log of its requests."""
    (tmp_path / "proxy").mkdir()
    with start_middle(free_port(), tmp_path / "proxy", []) as url:
        yield url, tmp_path / "proxy" / "requests.log"


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy"])
def test_a_proxy_sees_reads_and_writes(
    variable: str, proxy: tuple[str, Path], s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = new_bucket(s3_endpoint)
    use_server(s3_endpoint, monkeypatch)
    monkeypatch.setenv(variable, proxy[0])
    try_everything(open_store(f"s3://{bucket}/place"))
    seen = proxy[1].read_text()
    assert all(f"{method} {s3_endpoint}/{bucket}" in seen for method in ("PUT", "GET", "HEAD", "POST"))
    for exception in ("NO_PROXY", "no_proxy"):
        with monkeypatch.context() as changed:
            changed.setenv(exception, "localhost,127.0.0.1")
            try_everything(open_store(f"s3://{bucket}/other"))
    assert proxy[1].read_text() == seen


def test_a_proxy_of_https(
    proxy: tuple[str, Path], https: str, s3_endpoint: str, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = new_bucket(s3_endpoint)
    use_server(https, monkeypatch)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    monkeypatch.setenv("HTTPS_PROXY", proxy[0])
    try_everything(open_store(f"s3://{bucket}/place"))
    assert proxy[1].read_text().startswith(f"CONNECT {https.removeprefix('https://')}")


def test_a_proxy_that_is_not_there(
    s3_endpoint: str, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_server(s3_endpoint, monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("HTTP_PROXY", f"http://user:secret-77@127.0.0.1:{free_port()}")
    for act in (
        lambda: open_store("s3://leaf/a").read_bytes("b"),
        lambda: open_store("s3://leaf/a").write_bytes("b", b""),
    ):
        with pytest.raises(UserError, match=r"proxy does not answer.*\n.*HTTPS_PROXY") as caught:
            act()
        assert "secret-77" not in str(caught.value)


def test_ingest_by_way_of_a_proxy(s3_endpoint: str, free_port: Callable[[], int], tmp_path: Path) -> None:
    """The command itself, whose workers are processes of their own."""
    bucket = new_bucket(s3_endpoint)
    with pytest.MonkeyPatch.context() as environment:
        use_server(s3_endpoint, environment)
        settings = SynthSettings(cultivars=2, train_per_cultivar=2, test_per_cultivar=2, size=64)
        synthesize(tmp_path / "drawn", settings)
        open_store(f"s3://{bucket}/src").upload(tmp_path / "drawn")
        with start_middle(free_port(), tmp_path, []) as proxy:
            command = [
                sys.executable,
                "-m",
                "ufgvc.cli",
                "ingest",
                "--source",
                f"s3://{bucket}/src",
                "--data",
                str(tmp_path / "data"),
            ]
            env = {**os.environ, "HTTP_PROXY": proxy, "NO_PROXY": "localhost"}
            done = subprocess.run([*command, "--ray.cpus", "2"], env=env, capture_output=True, text=True, timeout=240)
            assert done.returncode == 0, done.stderr
    assert "/src/images/" in (tmp_path / "requests.log").read_text()
