"""What schemathesis asks with: three times in four an id that exists, for what ends things one
that nothing else needs; and a replay without its pauses, which could be years. And which refusals
with a status of 500 and more are none of its faults: that so much is asked at once."""

import json
import os
import random
import zlib

import schemathesis

with open(os.environ["VITALS_IDS"], encoding="utf-8") as file:
    IDS = json.load(file)


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    if not path_parameters:
        return path_parameters
    operation = context.operation
    kind = operation.path.split("/")[1]
    ids = IDS["ends" if operation.method.lower() == "delete" else "there"].get(kind)
    # By what was made up, so that the same case is the same again.
    draw = random.Random(zlib.crc32(repr(sorted(path_parameters.items(), key=str)).encode()))
    if ids and draw.random() < 0.75:
        key = "patient_id" if kind == "patients" else "id"
        path_parameters[key] = draw.choice(ids)
    return path_parameters


@schemathesis.check
def is_no_fault_of_the_server(context, response, case):
    if response.status_code >= 500:
        code = str(response.json().get("code"))
        busy = code.startswith("too_many_") or code.endswith(("_busy", "_budget_used")) or code == "queue_full"
        assert busy, f"{response.status_code} {code}"


@schemathesis.hook
def map_query(context, query):
    if context.operation.path.endswith("/replay") and context.operation.method.lower() == "get":
        query = dict(query or {})
        try:
            float(query.get("speed", 1))
            query["speed"] = "max"
        except (TypeError, ValueError):
            pass
    return query
