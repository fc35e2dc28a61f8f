# An export that is encrypted at rest, read by "pyrage" of PyPI with the recipient's secret key
# and by nobody else's; fetched in ranges by curl.
# shellcheck shell=bash disable=SC2154 # script/outside sets them
need curl
python_with pyrage==1.4.0
"$python" tests/outside/exports.py "$vitals" "$scratch"
