"""Runs vitals, gives it something to count, and hands what it says to promtool.

The expressions of the alerts and of the dashboard are read by promtool, too, and each metric that
they name has to be one that vitals describes: what has not happened yet is not scraped.
"""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request

vitals, scratch, promtool = sys.argv[1:]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url, token=None, body=None):
    head = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        return opener.open(urllib.request.Request(url, data, head)).read().decode()
    except urllib.error.HTTPError as refused:
        return refused.read().decode()


def expressions():
    with open("deploy/prometheus/alerts.yml") as file:
        text = file.read()
    for expr in re.findall(r"^ +expr: (?:>-\n((?: {10,}.*\n)+)|(.*)\n)", text, re.M):
        yield "alerts.yml", " ".join("".join(expr).split())
    with open("deploy/grafana/vitals.json") as file:
        dashboard = json.load(file)
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


environment = {k: v for k, v in os.environ.items() if not k.startswith("VITALS_") and k != "DATABASE_URL"}
environment |= {"VITALS_DATA_DIR": os.path.join(scratch, "data"), "VITALS_DRAIN": "0s"}
server = subprocess.Popen(
    [vitals, "serve", "--listen", "127.0.0.1:0"],
    env=environment, cwd=scratch, stdout=subprocess.PIPE, text=True,
)
try:
    base = server.stdout.readline().removeprefix("ready ").strip()
    assert base, "vitals did not get ready"
    scope = "readings:write vitals:read"
    token = subprocess.run(
        [vitals, "token", "--tenant", "t", "--subject", "s", "--scope", scope],
        env=environment, cwd=scratch, stdout=subprocess.PIPE, text=True, check=True,
    ).stdout.strip()
    reading = {"patientId": "101", "deviceId": "w", "vital": "heart_rate", "value": 71, "measuredAt": "2026-01-01T00:00:00Z"}
    ask(base + "/api/v1/readings", token, [reading, reading | {"value": 9000}])
    ask(base + "/api/v1/patients/101", token)
    ask(base + "/api/v1/patients/nobody", token)
    ask(base + "/api/v1/nothing/here", token)
    scraped = ask(base + "/metrics")
finally:
    server.terminate()
    server.wait(30)

for line in [
    'vitals_http_requests_total{method="POST",route="/api/v1/readings",status="207"} 1',
    'vitals_http_requests_total{method="GET",route="/api/v1/patients/{patient_id}",status="404"} 1',
    'vitals_http_requests_total{method="GET",route="none",status="404"} 1',
    'vitals_http_problems_total{code="not_found"} 1',
    'vitals_readings_rejected_total{code="value_out_of_range"} 1',
    "vitals_readings_stored_total 1",
]:
    assert line in scraped.splitlines(), f"not scraped: {line}\n{scraped}"
linted = subprocess.run([promtool, "check", "metrics"], input=scraped, text=True, capture_output=True)
assert linted.returncode == 0, linted.stdout + linted.stderr

with open("docs/reference/metrics.md") as file:
    described = set(re.findall(r"^\| `(vitals_\w+)`", file.read(), re.M))
told = set(re.findall(r"^# HELP (vitals_\w+) ", scraped, re.M))
assert told, scraped
assert told <= described, told - described
asked = list(expressions())
assert len(asked) > 30, len(asked)
for where, expression in asked:
    named = set(re.findall(r"\bvitals_\w+", expression))
    bare = {name if name in described else re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
    assert bare <= described, f"{where}: {bare - described} is not counted"
# promtool reads expressions as rules, and YAML is a superset of JSON.
rules = [{"record": f"asked:{n}", "expr": expression} for n, (_, expression) in enumerate(asked)]
path = os.path.join(scratch, "asked.yml")
with open(path, "w") as file:
    json.dump({"groups": [{"name": "asked", "rules": rules}]}, file)
subprocess.run([promtool, "check", "rules", path], check=True, stdout=subprocess.DEVNULL)
print(f"{len(told)} metrics scraped, {len(asked)} expressions, all known")
