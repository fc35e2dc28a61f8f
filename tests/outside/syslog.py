"""Runs rsyslog and vitals, changes and reads something, and looks at what rsyslog wrote
down: each access, taken apart by rsyslog's own parser. Then rsyslog is ended, something is
changed, and it is told when it is back.

Usage: syslog.py VITALS SCRATCH_DIRECTORY RSYSLOGD MODULES
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

SOON_SECONDS = 60
NAME = "vitals@32473"

CONFIG = """
global(workDirectory="{scratch}" defaultNetstreamDriver="gtls"
       defaultNetstreamDriverCAFile="{scratch}/ca.pem"
       defaultNetstreamDriverCertFile="{scratch}/syslog.pem"
       defaultNetstreamDriverKeyFile="{scratch}/syslog.key")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="anon")
module(load="mmpstrucdata")
input(type="imtcp" address="127.0.0.1" port="{port}" listenPortFileName="{scratch}/port")
template(name="all" type="list") {{ property(name="jsonmesg") constant(value="\\n") }}
action(type="mmpstrucdata")
action(type="omfile" file="{scratch}/came" template="all")
"""


def openssl(scratch, *arguments):
    made = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt"]
    made += ["ec_paramgen_curve:prime256v1", "-days", "2", *arguments]
    subprocess.run(made, cwd=scratch, check=True, capture_output=True)


def rsyslog(program, modules, scratch, port):
    with open(f"{scratch}/rsyslog.conf", "w") as file:
        file.write(CONFIG.format(scratch=scratch, port=port))
    command = [program, "-n", "-M", modules, "-f", f"{scratch}/rsyslog.conf", "-i", "NONE"]
    return subprocess.Popen(command, env=os.environ)


def eventually(what, look):
    until = time.monotonic() + SOON_SECONDS
    while not (found := look()):
        assert time.monotonic() < until, what
        time.sleep(0.1)
    return found


def text(path):
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def came(scratch, **like):
    """The first access that looks so, with what is around it."""
    for line in text(f"{scratch}/came").splitlines():
        message = json.loads(line)
        access = message["$!"]["rfc5424-sd"][NAME]
        # rsyslog writes names small.
        if all(access.get(name.lower()) == value for name, value in like.items()):
            return message, access
    return None


def main(vitals, scratch, program, modules):
    openssl(scratch, "-subj", "/CN=ca", "-addext", "basicConstraints=critical,CA:TRUE",
            "-keyout", "ca.key", "-out", "ca.pem")
    openssl(scratch, "-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=syslog",
            "-addext", "basicConstraints=CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", "syslog.key", "-out", "syslog.pem")
    receiver = rsyslog(program, modules, scratch, 0)
    port = eventually("rsyslog does not listen", lambda: text(f"{scratch}/port").strip())
    environment = {k: v for k, v in os.environ.items()
                   if not k.startswith("VITALS_") and k not in ("DATABASE_URL", "LD_LIBRARY_PATH")}
    environment["VITALS_DRAIN"] = "0s"
    data = ["--data-dir", f"{scratch}/data"]
    server = subprocess.Popen(
        [vitals, "serve", "--listen", "127.0.0.1:0", *data, "--audit-syslog",
         f"tls://127.0.0.1:{port}", "--audit-syslog-ca", f"{scratch}/ca.pem"],
        env=environment, stdout=subprocess.PIPE, text=True)
    address = server.stdout.readline().strip().removeprefix("ready ")
    subject = 'Schwester "Ä" ]\\'
    token = subprocess.run(
        [vitals, "token", *data, "--tenant", "ward", "--subject", subject,
         "--scope", "vitals:read patients:manage"],
        env=environment, check=True, capture_output=True, text=True).stdout.strip()

    def ask(method, path, body=None):
        request = urllib.request.Request(
            f"{address}/api/v1{path}", method=method, data=body and json.dumps(body).encode(),
            headers={"authorization": f"Bearer {token}", "content-type": "application/json"})
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    assert ask("PUT", "/patients/101/record", {"ward": "4B"}) == 200
    assert ask("GET", "/rules") == 403
    change = {"patientId": "101", "method": "PUT", "subject": subject, "status": "200"}
    message, access = eventually("the change did not come", lambda: came(scratch, **change))
    # Log audit, notice.
    told = [message[name] for name in ("syslogfacility", "syslogseverity", "app-name", "msgid")]
    assert told == ["13", "5", "vitals", "change"], told
    assert (access["tenant"], access["address"], access["by"]) == ("ward", "127.0.0.1", "token"), access
    assert "PUT /api/v1/patients/{patient_id}/record of patient 101, 200" in message["msg"], message
    refused = lambda: came(scratch, route="/api/v1/rules", code="scope_missing")
    message, _ = eventually("the refusal did not come", refused)
    assert message["syslogseverity"] == "4", message

    receiver.terminate()
    receiver.wait()
    assert ask("PUT", "/patients/102/record", {"ward": "4B"}) == 200
    receiver = rsyslog(program, modules, scratch, port)
    eventually("what happened meanwhile did not come", lambda: came(scratch, patientId="102"))
    server.terminate()
    assert server.wait() == 0
    receiver.terminate()
    receiver.wait()


main(*sys.argv[1:])
