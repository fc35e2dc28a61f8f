# The API against its own description, by "schemathesis" from PyPI: some thousand requests, as
# described and as not, with ids that exist. Python runs vitals and fills it, and leaves what
# exists for the hooks.
# shellcheck shell=bash disable=SC2154 # script/outside sets them
python_with schemathesis==4.32.5
"$python" tests/outside/described.py "$vitals" "$scratch"
