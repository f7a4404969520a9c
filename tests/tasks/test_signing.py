"""Time stamps by a real authority (OpenSSL's), and what becomes of a batch where there is none."""

import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from rfc3161_client import VerifierBuilder, decode_timestamp_response
from rfc3161_client.errors import VerificationError as StampError

from expunge.errors import ServiceUnavailableError, WorkspaceError
from tasks.adapters.model_signing import sign_model
from tasks.adapters.timestamps import time_stamp

_CONFIG = """
[req]
distinguished_name = name
prompt = no
[name]
CN = test authority
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[stamping]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
[tsa]
default_tsa = policy
[policy]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
"""


def _openssl(folder, *arguments, **options):
    return subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, **options)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A time-stamping authority on this machine; yields its address and its root."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here: no authority to ask")
    folder = tmp_path_factory.mktemp("tsa")
    (folder / "conf").write_text(_CONFIG.format(folder=folder))
    (folder / "serial").write_text("01\n")
    _openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-config", "conf",
             "-extensions", "authority", "-keyout", "root.key", "-out", "root.pem")  # fmt: skip
    _openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-config", "conf", "-subj", "/CN=stamps",
             "-keyout", "tsa.key", "-out", "tsa.csr")  # fmt: skip
    _openssl(folder, "x509", "-req", "-in", "tsa.csr", "-CA", "root.pem", "-CAkey", "root.key", "-days", "30",
             "-CAcreateserial", "-extfile", "conf", "-extensions", "stamping", "-out", "tsa.pem")  # fmt: skip

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            query = self.rfile.read(int(self.headers["Content-Length"]))
            (folder / "query").write_bytes(b"another" if self.path == "/broken" else query)
            if self.path == "/other":
                (folder / "text").write_text("other bytes")
                _openssl(folder, "ts", "-query", "-data", "text", "-sha256", "-cert", "-out", "query")
            try:
                _openssl(folder, "ts", "-reply", "-config", "conf", "-queryfile", "query", "-out", "reply")
                answer = (folder / "reply").read_bytes()
            except subprocess.CalledProcessError:
                answer = b"no"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield (
        f"http://127.0.0.1:{server.server_port}",
        x509.load_pem_x509_certificate((folder / "root.pem").read_bytes()),
    )
    server.shutdown()


def test_a_stamp_verifies_with_the_authority_s_root_alone(authority):
    url, root = authority
    stamp = decode_timestamp_response(time_stamp(b"an envelope", url))
    verifier = VerifierBuilder(roots=[root]).build()
    assert verifier.verify_message(stamp, b"an envelope")
    with pytest.raises(StampError):
        verifier.verify_message(stamp, b"another envelope")


@pytest.mark.parametrize("path", ["/other", "/broken"])
def test_an_answer_that_is_no_stamp_on_these_bytes_is_refused(authority, path):
    with pytest.raises(ServiceUnavailableError, match="gave no stamp"):
        time_stamp(b"an envelope", authority[0] + path)


def test_an_authority_that_is_not_there_is_told_of():
    with pytest.raises(ServiceUnavailableError, match="gave no stamp"):
        time_stamp(b"an envelope", "http://127.0.0.1:9")


def test_a_model_key_of_another_kind_is_refused(tmp_path):
    from securesystemslib.signer import CryptoSigner

    (tmp_path / "key").write_bytes(CryptoSigner.generate_ed25519().private_bytes)
    (tmp_path / "model").mkdir()
    with pytest.raises(WorkspaceError, match="elliptic-curve key"):
        sign_model(tmp_path / "model", tmp_path / "key", tmp_path / "sig")
