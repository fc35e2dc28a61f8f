"""Runs vitals, has a history exported for two recipients, and decrypts it with "pyrage": the
lines are those of the history. What curl fetches in two goes is the same.

Usage: exports.py VITALS SCRATCH_DIRECTORY
"""

import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from datetime import datetime, timedelta, timezone

import pyrage

SOON_SECONDS = 60
READINGS = 9_000


class Vitals:
    """A running server with a database of its own, and a token for it."""

    def __init__(self, program, scratch):
        env = {k: v for k, v in os.environ.items() if not k.startswith("VITALS_") and k != "DATABASE_URL"}
        env |= {"VITALS_DATA_DIR": os.path.join(scratch, "data")}
        self.process = subprocess.Popen(
            [program, "serve", "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE, stderr=open(os.path.join(scratch, "vitals.log"), "wb"), env=env, text=True,
        )
        ready = self.process.stdout.readline()
        assert ready.startswith("ready http://"), f"vitals did not get ready: see {scratch}/vitals.log"
        self.base = ready.split()[1] + "/api/v1"
        token = [program, "token", "--tenant", "outside", "--subject", "check", "--scope", "readings:write vitals:read"]
        self.token = subprocess.run(token, env=env, capture_output=True, text=True, check=True).stdout.strip()

    def ask(self, path, body=None, accept="*/*"):
        request = urllib.request.Request(
            self.base + path, data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", "Accept": accept},
        )
        with urllib.request.urlopen(request, timeout=SOON_SECONDS) as answer:
            return answer.read()

    def export(self, asked):
        job = json.loads(self.ask("/exports", asked))["_links"]["self"].removeprefix("/api/v1")
        until = time.monotonic() + SOON_SECONDS
        while True:
            told = json.loads(self.ask(job))
            if told["state"] == "done":
                return told["_links"]["data"].removeprefix("/api/v1"), told["result"]
            assert told["error"] is None and time.monotonic() < until, told
            time.sleep(0.05)


def fails(decrypt):
    try:
        decrypt()
    except pyrage.DecryptError:
        return True
    return False


def check(vitals, scratch):
    begin = datetime.now(timezone.utc) - timedelta(days=1)
    readings = [
        {"patientId": "101", "deviceId": "watch-7", "vital": "heart_rate", "value": 60 + n % 50,
         "measuredAt": (begin + timedelta(seconds=n)).isoformat(), "context": {"note": f"no. {n}"}}
        for n in range(READINGS)
    ]
    vitals.ask("/readings", readings)
    ours, second, theirs = (pyrage.x25519.Identity.generate() for _ in range(3))
    recipients = [str(ours.to_public()), str(second.to_public())]
    for name, media_type in [("csv", "text/csv"), ("ndjson", "application/x-ndjson")]:
        expected = vitals.ask("/patients/101/readings", accept=media_type)
        path, result = vitals.export({"format": name, "recipients": recipients})
        sealed = vitals.ask(path)
        assert hashlib.sha256(sealed).hexdigest() == result["sha256"]
        assert (result["readings"], result["bytes"]) == (READINGS, len(sealed))
        for identity in (ours, second):
            assert pyrage.decrypt(sealed, [identity]) == expected, name
        assert fails(lambda: pyrage.decrypt(sealed, [theirs])), "another key opens it"
        assert b"watch-7" not in sealed
        # As after a connection that broke off: what is there stays, the rest is fetched.
        file = os.path.join(scratch, name)
        with open(file, "wb") as begun:
            begun.write(sealed[:1_000_000])
        curl = ["curl", "-sS", "--fail", "--noproxy", "*", "-C", "-", "-o", file, "-H", f"Authorization: Bearer {vitals.token}"]
        subprocess.run([*curl, vitals.base + path], check=True, timeout=SOON_SECONDS)
        with open(file, "rb") as whole:
            assert whole.read() == sealed, "curl -C - made something else of it"
        print(f"exports: {name} for two recipients, {len(sealed)} bytes, read by each of them alone")


def main():
    program, scratch = sys.argv[1:]
    vitals = Vitals(program, scratch)
    try:
        check(vitals, scratch)
    finally:
        vitals.process.terminate()
        vitals.process.wait(timeout=SOON_SECONDS)


main()
