# The trace of one page, from the request that brought the reading to the receiver's webhook, as a
# collector of OpenTelemetry gets it: "rotel" takes what vitals sends, and what it hands on is read
# by the messages that OpenTelemetry publishes.
# shellcheck shell=bash disable=SC2154 # script/outside sets them
python_with rotel==0.0.1a15 opentelemetry-proto==1.45.2
"$python" tests/outside/traces.py "$vitals" "$scratch"
