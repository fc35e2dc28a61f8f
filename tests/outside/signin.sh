# Signing in with a browser by a provider that nobody here wrote: Chromium, if this machine has
# one, led by "playwright-core", against "oidc-provider", both from npm. Two instances stand
# behind one address.
# shellcheck shell=bash disable=SC2154 # script/outside sets them
browser=""
for name in "${VITALS_BROWSER:-}" chromium chromium-browser google-chrome; do
  if [ -n "$name" ] && [ -z "$browser" ]; then browser=$(command -v "$name" || true); fi
done
if [ -z "$browser" ]; then
  printf 'signin     NOT ASKED: there is no Chromium here (VITALS_BROWSER names one)\n' >&2
else
  node_with playwright-core@1.65.1 oidc-provider@9.13.3
  NODE_PATH="$node_dir/node_modules" node tests/outside/signin.cjs "$vitals" "$scratch" "$browser" "$node_dir"
fi
