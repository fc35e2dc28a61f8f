"""Runs vitals with receivers of its own and verifies what they get with the package
"standardwebhooks": every kind of delivery, before, during and after a rotation. Leaves
the deliveries as JSON for whoever verifies next. Then a receiver that asks for a client
certificate, as one inside a hospital may.

Usage: webhooks.py VITALS SCRATCH_DIRECTORY
"""

import base64
import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from datetime import datetime, timezone

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

SOON_SECONDS = 30
# The worked vector of the specification's reference implementations.
VECTOR = {
    "id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "timestamp": 1614265330,
    "body": '{"test": 2432232314}',
    "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


class Receiver:
    """Keeps what comes, byte for byte."""

    def __init__(self, tls=None):
        self.came = came = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                came.append((dict(self.headers.items()), body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        scheme = "http"
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait(self, count):
        until = time.monotonic() + SOON_SECONDS
        while len(self.came) < count:
            assert time.monotonic() < until, f"{len(self.came)} of {count} deliveries came"
            time.sleep(0.02)
        return self.came[:count]


class Vitals:
    """A running server with a database of its own, and a token for it."""

    def __init__(self, program, scratch):
        data = os.path.join(scratch, "data")
        env = {k: v for k, v in os.environ.items() if not k.startswith("VITALS_") and k != "DATABASE_URL"}
        env |= {"VITALS_DATA_DIR": data, "SSL_CERT_FILE": os.path.join(scratch, "ca.pem")}
        self.process = subprocess.Popen(
            [program, "serve", "--listen", "127.0.0.1:0", "--allow-webhook-net", "127.0.0.0/8"],
            stdout=subprocess.PIPE, stderr=open(os.path.join(scratch, "vitals.log"), "wb"), env=env, text=True,
        )
        ready = self.process.stdout.readline()
        assert ready.startswith("ready http://"), f"vitals did not get ready: see {scratch}/vitals.log"
        self.base = ready.split()[1] + "/api/v1"
        token = [program, "token", "--tenant", "outside", "--subject", "check", "--scope", "readings:write webhooks:manage"]
        self.token = subprocess.run(token, env=env, capture_output=True, text=True, check=True).stdout.strip()

    def call(self, method, path, body=None):
        request = urllib.request.Request(
            self.base + path, method=method, data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=SOON_SECONDS) as answer:
                return answer.status, json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def measure(self, value):
        at = datetime.now(timezone.utc).isoformat()
        status, answer = self.call("POST", "/readings", {
            "patientId": "101", "deviceId": "watch-7", "vital": "heart_rate", "value": value,
            "measuredAt": at, "unit": "/min",
        })
        assert (status, answer["stored"]) == (201, 1), answer

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=SOON_SECONDS)


def verify(secret, headers, body):
    """By the package, and the other way round: its signature is the one that came."""
    lower = {name.lower(): value for name, value in headers.items()}
    Webhook(secret).verify(body.decode(), lower)
    at = datetime.fromtimestamp(int(lower["webhook-timestamp"]), tz=timezone.utc)
    theirs = Webhook(secret).sign(lower["webhook-id"], at, body.decode())
    assert theirs in lower["webhook-signature"].split(" "), (theirs, lower)


def refused(secret, headers, body):
    try:
        Webhook(secret).verify(body.decode(), {k.lower(): v for k, v in headers.items()})
    except WebhookVerificationError:
        return
    raise AssertionError("a delivery that is none was believed")


def record(kept, kind, headers, body, **keys):
    kept.append({"kind": kind, "headers": {k.lower(): v for k, v in headers.items()},
                 "body": base64.b64encode(body).decode(), **keys})


def deliveries(vitals, kept):
    plain, asymmetric, own = Receiver(), Receiver(), Receiver()
    events = ["HIGH_HEART_RATE"]
    status, hook = vitals.call("POST", "/webhooks", {"url": plain.url, "events": events})
    assert status == 201, hook
    status, pair = vitals.call("POST", "/webhooks", {"url": asymmetric.url, "events": events, "signature": "ed25519"})
    assert status == 201 and pair["publicKey"].startswith("whpk_"), pair
    # The contract's own key, and the largest one that is allowed.
    for secret in [VECTOR["secret"], "whsec_" + base64.b64encode(bytes(range(64))).decode()]:
        status, hook_own = vitals.call("POST", "/webhooks", {"url": own.url, "events": events, "secret": secret})
        assert (status, hook_own["secret"]) == (201, secret), hook_own
    vitals.measure(130)
    (headers, body), = plain.wait(1)
    verify(hook["secret"], headers, body)
    refused(hook["secret"], headers, body.replace(b"130", b"131"))
    refused(VECTOR["secret"], headers, body)
    record(kept, "raised", headers, body, secrets=[hook["secret"]])
    by_key = {hook_own["secret"], VECTOR["secret"]}
    for headers, body in own.wait(2):
        fits = [secret for secret in by_key if not_raised(lambda s=secret: verify(s, headers, body))]
        assert len(fits) == 1, headers
        by_key.remove(fits[0])
        record(kept, "own secret", headers, body, secrets=fits)
    (headers, body), = asymmetric.wait(1)
    record(kept, "ed25519", headers, body, publicKeys=[pair["publicKey"]])

    status, ping = vitals.call("POST", f"/webhooks/{hook['id']}/ping")
    assert (status, ping["status"], ping["delivered"]) == (200, 204, True), ping
    headers, body = plain.wait(2)[1]
    verify(hook["secret"], headers, body)
    record(kept, "ping", headers, body, secrets=[hook["secret"]])

    # Both secrets verify what is signed after a rotation, also from one kind to the other.
    status, rotated = vitals.call("POST", f"/webhooks/{hook['id']}/rotate-secret")
    assert status == 200 and rotated["secret"] != hook["secret"], rotated
    status, to_hmac = vitals.call("POST", f"/webhooks/{pair['id']}/rotate-secret", {"signature": "hmac"})
    assert status == 200 and to_hmac["secret"].startswith("whsec_"), to_hmac
    vitals.measure(90)
    headers, body = plain.wait(3)[2]
    for secret in [rotated["secret"], hook["secret"]]:
        verify(secret, headers, body)
    record(kept, "rotated", headers, body, secrets=[rotated["secret"], hook["secret"]])
    headers, body = asymmetric.wait(2)[1]
    verify(to_hmac["secret"], headers, body)
    record(kept, "from ed25519 to hmac", headers, body, secrets=[to_hmac["secret"]], publicKeys=[pair["publicKey"]])


def not_raised(act):
    try:
        act()
        return True
    except WebhookVerificationError:
        return False


def certificates(scratch):
    """A CA, a server of it, and a client of it."""
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=scratch, check=True, capture_output=True)
    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=check", "-keyout", "ca.key", "-out", "ca.pem")
    for name, extra in [("server", "subjectAltName=IP:127.0.0.1"), ("client", "extendedKeyUsage=clientAuth")]:
        with open(os.path.join(scratch, f"{name}.ext"), "w") as file:
            file.write(extra + "\n")
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")


def client_certificates(vitals, scratch):
    def text(name):
        with open(os.path.join(scratch, name)) as file:
            return file.read()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(os.path.join(scratch, "server.pem"), os.path.join(scratch, "server.key"))
    tls.load_verify_locations(os.path.join(scratch, "ca.pem"))
    tls.verify_mode = ssl.CERT_REQUIRED
    receiver = Receiver(tls)
    wish = {"url": receiver.url, "events": ["*"], "headers": {"X-Ward": "4b"}}
    status, bare = vitals.call("POST", "/webhooks", wish)
    assert status == 201, bare
    _, ping = vitals.call("POST", f"/webhooks/{bare['id']}/ping")
    assert not ping["delivered"] and not receiver.came, ping
    pair = {"clientCertificate": text("client.pem"), "clientKey": text("client.key")}
    status, answer = vitals.call("PATCH", f"/webhooks/{bare['id']}", pair | {"clientKey": text("server.key")})
    assert (status, answer["code"]) == (422, "invalid_client_certificate"), answer
    status, answer = vitals.call("PATCH", f"/webhooks/{bare['id']}", pair)
    assert status == 200 and "clientKey" not in answer, answer
    _, ping = vitals.call("POST", f"/webhooks/{bare['id']}/ping")
    assert (ping["status"], ping["delivered"]) == (204, True), ping
    headers, body = receiver.wait(1)[0]
    assert headers["x-ward"] == "4b", headers
    verify(bare["secret"], headers, body)


def main():
    program, scratch = sys.argv[1:]
    webhook = Webhook(VECTOR["secret"])
    at = datetime.fromtimestamp(VECTOR["timestamp"], tz=timezone.utc)
    assert webhook.sign(VECTOR["id"], at, VECTOR["body"]) == VECTOR["signature"]
    certificates(scratch)
    vitals, kept = Vitals(program, scratch), []
    try:
        deliveries(vitals, kept)
        client_certificates(vitals, scratch)
    finally:
        vitals.stop()
    with open(os.path.join(scratch, "deliveries.json"), "w") as file:
        json.dump({"vector": VECTOR, "deliveries": kept}, file)
    print(f"python     standardwebhooks verified the vector, {len(kept)} deliveries and one over mTLS")


main()
