"""Archives a month of readings into a bucket, large enough to be uploaded in parts, looks
at it there, verifies, brings it back, and verifies again.

Usage: bucket.py VITALS SCRATCH_DIRECTORY
"""

import io
import json
import logging
import os
import random
import subprocess
import sys
import time
import urllib.request
from datetime import datetime, timedelta, timezone

import boto3
import pyarrow.parquet
from moto.s3.models import FakeKey
from moto.server import ThreadedMotoServer

BUCKET, PREFIX, NAME = "hospital", "years/2025", "event_2025_01.parquet"
READINGS = 90_000
# More than two parts of an upload, which no compression makes smaller.
CONTEXT_BYTES = 200
PART_BYTES = 8 * 1024 * 1024
SOON_SECONDS = 60


def readings(path):
    chance = random.Random(1)
    start = datetime(2025, 1, 1, tzinfo=timezone.utc)
    with open(path, "w") as file:
        for n in range(READINGS):
            reading = {
                "patientId": f"p{n % 50}",
                "deviceId": "monitor",
                "vital": "heart_rate",
                "value": 60 + n % 40,
                "measuredAt": (start + timedelta(seconds=20 * n)).isoformat(),
                "context": {"wave": chance.randbytes(CONTEXT_BYTES).hex()},
            }
            file.write(json.dumps(reading) + "\n")


def caught_up(vitals, scratch, environment):
    """Serves until everybody who follows the log has read all of it."""
    command = [vitals, "serve", "--listen", "127.0.0.1:0", "--data-dir", f"{scratch}/data"]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    address = server.stdout.readline().strip().removeprefix("ready ")
    until = time.monotonic() + SOON_SECONDS
    lag = None
    while lag is None or any(lag.values()):
        assert time.monotonic() < until, f"still behind: {lag}"
        time.sleep(0.1)
        with urllib.request.urlopen(f"{address}/health/ready") as answer:
            lag = json.load(answer)["lag"]
    server.terminate()
    assert server.wait() == 0


def altered(body):
    """Another bit in the middle of it."""
    half = len(body) // 2
    return body[:half] + bytes([body[half] ^ 1]) + body[half + 1 :]


def main(vitals, scratch):
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    keys = {
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "something",
        "AWS_REGION": "us-east-1",
    }
    environment = {**os.environ, **keys, "NO_PROXY": "127.0.0.1", "VITALS_LOG": "warn"}

    def run(*arguments, fails=False):
        command = [vitals, *arguments, "--data-dir", os.path.join(scratch, "data")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, f"{arguments}: {done.returncode}: {said}"
        return said

    os.environ.update(keys)
    s3 = boto3.client("s3", endpoint_url=endpoint)
    at = ("--s3-endpoint", endpoint)
    plain = (*at, "--s3-allow-http")
    place = f"s3://{BUCKET}/{PREFIX}"

    file = os.path.join(scratch, "january.ndjson")
    readings(file)
    said = run("import", file, "--format", "ndjson")
    assert f"stored={READINGS} " in said, said
    caught_up(vitals, scratch, environment)
    archive = ("archive", "--before", "2025-02", "--to", place)
    # What cannot be is said, and nothing has left.
    assert "--s3-allow-http" in run(*archive, *at, fails=True)
    said = run(*archive, *plain, fails=True)
    assert BUCKET in said and "NoSuchBucket" in said, said
    s3.create_bucket(Bucket=BUCKET)
    # Nor when the bucket keeps something else than it was given.
    kept = FakeKey.value
    FakeKey.value = property(lambda key: altered(kept.fget(key)), kept.fset)
    run(*archive, *plain, fails=True)
    FakeKey.value = kept
    assert len(run("replay", "--patient", "p7").splitlines()) >= READINGS / 50
    run(*archive, *plain)
    found = s3.list_objects_v2(Bucket=BUCKET)["Contents"]
    assert [object["Key"] for object in found] == [f"{PREFIX}/{NAME}"], found
    size = found[0]["Size"]
    assert size > 2 * PART_BYTES, f"{size} bytes were uploaded at once"
    body = s3.get_object(Bucket=BUCKET, Key=f"{PREFIX}/{NAME}")["Body"].read()
    table = pyarrow.parquet.read_table(io.BytesIO(body))
    late = sum(kind != "reading" for kind in table["type"].to_pylist())
    assert table.num_rows - late == READINGS, table.num_rows
    assert set(table["vital"].drop_null().to_pylist()) == {"heart_rate"}

    assert "verified" in run("verify", *plain)
    # Without a byte of it, the month is not verified and does not come back.
    s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{NAME}", Body=body[:-1])
    run("verify", *plain, fails=True)
    run("import", f"{place}/{NAME}", "--format", "parquet", *plain, fails=True)
    s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{NAME}", Body=body)
    run("import", f"{place}/{NAME}", "--format", "parquet", *plain)
    assert "verified" in run("verify")
    replayed = run("replay", "--patient", "p7")
    assert sum('"reading"' in line for line in replayed.splitlines()) == READINGS / 50
    server.stop()
    print(f"bucket: {size} bytes went into a bucket, were read by pyarrow, and came back")


main(*sys.argv[1:])
