"""A webhook receiver: verifies the Standard Webhooks signature, and drops repeats.

python3 receiver.py whsec_… [PORT]     prints VERIFIED, REPEAT or FORGED, and the body

Nothing but Python's own library. A receiver of yours does the same three things: it verifies
the bytes that came before it reads them, it refuses what is older than five minutes, and it
remembers the ids that it has acted on.
"""

import base64
import hmac
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

KEY = base64.b64decode(sys.argv[1].removeprefix("whsec_"))
PORT = int(sys.argv[2]) if len(sys.argv) > 2 else 9000
AGE_SECONDS_MAX = 300
seen = set()


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        id, at, signatures = (self.headers[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
        body = self.rfile.read(int(self.headers["content-length"]))
        expected = "v1," + base64.b64encode(hmac.digest(KEY, f"{id}.{at}.".encode() + body, "sha256")).decode()
        is_ours = any(hmac.compare_digest(expected, signature) for signature in signatures.split())
        is_good = is_ours and abs(time.time() - int(at)) < AGE_SECONDS_MAX
        print("FORGED" if not is_good else "REPEAT" if id in seen else "VERIFIED", body.decode(), flush=True)
        if is_good:
            seen.add(id)
        self.send_response(204 if is_good else 401)
        self.end_headers()

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", PORT), Receiver)
print(f"listening on {PORT}", flush=True)
server.serve_forever()
