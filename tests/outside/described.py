"""Runs vitals with a ward's worth of things in it, and "schemathesis" against its description:
every status, media type, shape and code has to be one that is described, nothing may be a
server's error, no method may be taken that is not described, and nothing be answered without
a token.

Usage: described.py VITALS SCRATCH_DIRECTORY
"""

import atexit
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import datetime, timedelta, timezone

SOON_SECONDS = 60
# Fuzzing goes on until this is spent; what comes before it has an end of its own.
RUN_SECONDS_MAX = 120
CASES_MIN = 1000
CHECKS = [
    "is_no_fault_of_the_server", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "response_headers_conformance", "unsupported_method", "ignored_auth",
]


class Receiver(http.server.BaseHTTPRequestHandler):
    """Takes every page."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


class Vitals:
    """A running server with a database of its own, and a token for all of it."""

    def __init__(self, program, scratch):
        env = {k: v for k, v in os.environ.items() if not k.startswith("VITALS_") and k != "DATABASE_URL"}
        env |= {"VITALS_DATA_DIR": os.path.join(scratch, "data")}
        options = ["--listen", "127.0.0.1:0", "--allow-webhook-net", "127.0.0.0/8", "--limit-gateway-requests", "1000000000"]
        log = open(os.path.join(scratch, "vitals.log"), "wb")
        self.process = subprocess.Popen([program, "serve", *options], stdout=subprocess.PIPE, stderr=log, env=env, text=True)
        # Also when what follows fails: it would go on in a directory that is another's by then.
        atexit.register(self.process.terminate)
        ready = self.process.stdout.readline()
        assert ready.startswith("ready http://"), f"vitals did not get ready: see {scratch}/vitals.log"
        self.base = ready.split()[1] + "/api/v1"
        with urllib.request.urlopen(self.base + "/openapi.json", timeout=SOON_SECONDS) as answer:
            paths = json.loads(answer.read())["paths"]
        every = [operation["security"][0]["token"] for item in paths.values() for operation in item.values()]
        scopes = {scope for of_operation in every for scope in of_operation}
        token = [program, "token", "--tenant", "outside", "--subject", "check", "--scope", " ".join(sorted(scopes))]
        self.token = subprocess.run(token, env=env, capture_output=True, text=True, check=True).stdout.strip()

    def call(self, method, path, body=None):
        request = urllib.request.Request(
            self.base + path, method=method, data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=SOON_SECONDS) as answer:
            return json.loads(answer.read() or "null")

    def found(self, path, count):
        until = time.monotonic() + SOON_SECONDS
        while len(items := self.call("GET", path)["items"]) < count:
            assert time.monotonic() < until, f"{len(items)} of {count} at {path}"
            time.sleep(0.1)
        return [item["id"] for item in items]


def rule(name):
    when = {"vital": "heart_rate", "op": ">", "value": 200}
    return {"id": name, "event": "HIGH_MEDIUM", "priority": "medium", "mode": "active", "when": when}


def fill(vitals, receiver):
    """What exists, by the first part of its path: to be looked at, and to be ended."""
    patients = [f"patient-{n}" for n in range(4)]
    url = f"http://127.0.0.1:{receiver.server_address[1]}/hook"
    webhooks = [vitals.call("POST", "/webhooks", {"url": url, "events": ["*"]})["id"] for _ in range(6)]
    now = datetime.now(timezone.utc)
    vitals.call("POST", "/readings", [
        {"patientId": patient, "deviceId": "watch-7", "vital": vital, "value": value, "measuredAt": now.isoformat()}
        for patient in patients for vital, value in [("heart_rate", 130), ("spo2", 93), ("respiratory_rate", 22)]
    ])
    rules = [f"rule-{n}" for n in range(4)]
    for name in rules:
        vitals.call("PUT", f"/rules/{name}", rule(name))
    until = (now + timedelta(hours=1)).isoformat()
    wanted = {"rule": "rule-0", "reason": "a check", "until": until}
    silences = [vitals.call("POST", "/silences", wanted)["id"] for _ in range(4)]
    jobs = [vitals.call("POST", "/rules/backtest", {"rule": rule("tried")})["id"] for _ in range(2)]
    alerts = vitals.found("/alerts", len(patients))
    deliveries = vitals.found(f"/webhooks/{webhooks[0]}/deliveries", 1)
    there = {"patients": patients, "devices": ["watch-7"], "alerts": alerts, "webhooks": webhooks[:3], "deliveries": deliveries,
             "rules": rules[:2], "silences": silences[:2], "jobs": jobs[:1]}
    return {"there": there, "ends": {"webhooks": webhooks[3:], "rules": rules[2:], "silences": silences[2:], "jobs": jobs[1:]}}


def main(program, scratch):
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    vitals = Vitals(program, scratch)
    try:
        ids = os.path.join(scratch, "ids.json")
        with open(ids, "w", encoding="utf-8") as file:
            json.dump(fill(vitals, receiver), file)
        here = os.path.dirname(os.path.abspath(__file__))
        env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "SCHEMATHESIS_HOOKS": "described_hooks", "PYTHONPATH": here, "VITALS_IDS": ids}
        run = subprocess.run(
            [os.path.join(os.path.dirname(sys.executable), "schemathesis"), "run", vitals.base + "/openapi.json",
             "--header", f"Authorization: Bearer {vitals.token}", "--checks", ",".join(CHECKS),
             # It has no end.
             "--exclude-path", "/stream",
             "--phases", "examples,coverage,fuzzing", "--max-time", str(RUN_SECONDS_MAX), "--max-examples", "60", "--workers", "2",
             "--request-timeout", "20", "--continue-on-failure", "--generation-database", "none", "--no-color"],
            env=env, cwd=scratch, capture_output=True, text=True, check=False,
        )
        said = run.stdout + run.stderr
        with open(os.path.join(scratch, "schemathesis.log"), "w", encoding="utf-8") as file:
            file.write(said)
        cases = re.search(r"(\d[\d,]*) generated", said)
        cases = int(cases[1].replace(",", "")) if cases else 0
        assert run.returncode == 0, said[-12000:] + f"\nall of it: {scratch}/schemathesis.log"
        assert cases >= CASES_MIN, f"only {cases} cases:\n{said[-3000:]}"
        assert vitals.process.poll() is None, "vitals has ended"
        print(f"python     schemathesis found nothing in {cases} cases")
    finally:
        vitals.process.terminate()
        vitals.process.wait(timeout=SOON_SECONDS)


main(*sys.argv[1:])
