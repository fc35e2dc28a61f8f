"""Runs vitals with a collector that nobody here wrote ("rotel"), and checks that the trace of one
page is whole: who asked, the request, the append, the rules, the fan-out, two attempts, and the
receiver, each the parent of the next.

Usage: traces.py VITALS SCRATCH_DIRECTORY
"""

import gzip
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import datetime, timezone
from pathlib import Path

import rotel
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SOON_SECONDS = 60
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PATIENT = "patient-4711"
# Each step, and the one that it follows from.
STEPS = {
    "POST /api/v1/readings": None,
    "append": "POST /api/v1/readings",
    "commit": "append",
    "rules": "append",
    "fan-out": "rules",
    "attempt": "fan-out",
}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def listen(take):
    """A server of this process, which hands `take` what is posted and answers as that says."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(take(self.headers, body))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


class Receiver:
    """Refuses the first delivery and takes all others."""

    def __init__(self):
        self.came = []
        self.url = listen(self.take) + "/hook"

    def take(self, headers, _):
        self.came.append(headers)
        return 500 if len(self.came) == 1 else 204


class Handed:
    """What the collector hands on."""

    def __init__(self):
        self.came = []
        self.url = listen(self.take)

    def take(self, headers, body):
        if headers["content-encoding"] == "gzip":
            body = gzip.decompress(body)
        self.came += ExportTraceServiceRequest.FromString(body).resource_spans
        return 200

    def spans(self):
        return [span for of in list(self.came) for scope in of.scope_spans for span in scope.spans]

    def wait(self, count):
        until = time.monotonic() + SOON_SECONDS
        while len(self.spans()) < count:
            assert time.monotonic() < until, f"{[span.name for span in self.spans()]} came"
            time.sleep(0.05)


def ask(base, token, path, body, headers=None):
    request = urllib.request.Request(
        f"{base}/api/v1{path}", json.dumps(body).encode(), method="POST",
        headers={"authorization": f"Bearer {token}", "content-type": "application/json"} | (headers or {}),
    )
    with urllib.request.urlopen(request, timeout=SOON_SECONDS) as answer:
        assert answer.status == 201, answer.status


def page(program, env, base, receiver):
    """One reading above the limit, sent by who records it."""
    token = subprocess.run(
        [program, "token", "--tenant", "ward", "--subject", "s", "--scope", "readings:write webhooks:manage"],
        env=env, stdout=subprocess.PIPE, text=True, check=True,
    ).stdout.strip()
    ask(base, token, "/webhooks", {"url": receiver.url, "events": ["*"]})
    reading = {
        "patientId": PATIENT, "deviceId": "watch-7", "vital": "heart_rate", "value": 141.25,
        "measuredAt": datetime.now(timezone.utc).isoformat(),
    }
    sent = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "congo=t61rcWkgMzE"}
    ask(base, token, "/readings", reading, sent)


def check(handed, receiver):
    for of in handed.came:
        named = {pair.key: pair.value.string_value for pair in of.resource.attributes}
        assert named["service.name"] == "vitals" and named["service.version"], named
    by_name = {}
    for span in handed.spans():
        assert span.trace_id.hex() == TRACE, span
        by_name.setdefault(span.name, []).append(span)
    assert set(by_name) == set(STEPS), sorted(by_name)
    for name, before in STEPS.items():
        count = 2 if name == "attempt" else 1
        assert len(by_name[name]) == count, f"{len(by_name[name])} times {name}"
        parent = PARENT if before is None else by_name[before][0].span_id.hex()
        for span in by_name[name]:
            assert span.parent_span_id.hex() == parent, f"{name} follows from {span.parent_span_id.hex()}"
            assert span.start_time_unix_nano <= span.end_time_unix_nano, name
            assert not any(secret in str(span) for secret in (PATIENT, "watch-7", "141.25")), span
    told = [headers["traceparent"].split("-") for headers in receiver.came]
    attempts = {span.span_id.hex() for span in by_name["attempt"]}
    assert {trace for _, trace, _, _ in told} == {TRACE}, told
    assert {span for _, _, span, _ in told} == attempts, (told, attempts)
    assert all(headers["tracestate"] == "congo=t61rcWkgMzE" for headers in receiver.came)


def main(program, scratch):
    ours = ("VITALS_", "OTEL_", "ROTEL_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours) and k != "DATABASE_URL"}
    env["VITALS_DATA_DIR"] = os.path.join(scratch, "data")
    receiver, handed, port = Receiver(), Handed(), free_port()
    collector = subprocess.Popen(
        [str(Path(rotel.__file__).parent / "rotel-agent"), "start",
         "--otlp-http-endpoint", f"127.0.0.1:{port}", "--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}",
         "--pid-file", os.path.join(scratch, "rotel.pid"), "--batch-timeout", "200ms",
         "--exporter", "otlp", "--otlp-exporter-protocol", "http", "--otlp-exporter-endpoint", handed.url],
        stdout=open(os.path.join(scratch, "rotel.log"), "wb"), stderr=subprocess.STDOUT, env=env,
    )
    serving = subprocess.Popen(
        [program, "serve", "--listen", "127.0.0.1:0", "--allow-webhook-net", "127.0.0.0/8", "--drain", "0s",
         "--trace-ratio", "0"],
        stdout=subprocess.PIPE, stderr=open(os.path.join(scratch, "vitals.log"), "wb"), text=True,
        # By the name that it has everywhere.
        env=env | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"},
    )
    try:
        ready = serving.stdout.readline().split()
        assert ready[:1] == ["ready"], f"vitals did not get ready: see {scratch}/vitals.log"
        page(program, env, ready[1], receiver)
        handed.wait(len(STEPS) + 1)
        check(handed, receiver)
    finally:
        serving.terminate()
        serving.wait(SOON_SECONDS)
        collector.terminate()
        collector.wait(SOON_SECONDS)
    assert serving.returncode == 0, "vitals did not end well"
    print(f"traces     {len(handed.spans())} steps of one trace, each after the one it follows from")


if __name__ == "__main__":
    main(*sys.argv[1:])
