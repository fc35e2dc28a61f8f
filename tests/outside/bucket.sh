# A month's way into a bucket and back: the S3 protocol by "moto", which knows it from
# Amazon's own descriptions, and the file by "pyarrow". Both from PyPI.
# shellcheck shell=bash disable=SC2154 # script/outside sets them
python_with "moto[s3,server]==5.2.5" pyarrow==26.0.1
"$python" tests/outside/bucket.py "$vitals" "$scratch"
