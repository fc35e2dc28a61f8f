# Real deliveries of a running vitals, verified by the packages that a hospital would use:
# "standardwebhooks" from PyPI and from npm (v1), and node's own Ed25519 (v1a). Python runs
# vitals and the receivers, and leaves what came for node.
# shellcheck shell=bash disable=SC2154 # script/outside sets them
need openssl
python_with standardwebhooks==1.1.0
node_with standardwebhooks@1.1.1
"$python" tests/outside/webhooks.py "$vitals" "$scratch"
NODE_PATH="$node_dir/node_modules" node tests/outside/webhooks.cjs "$scratch/deliveries.json"
