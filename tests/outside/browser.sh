# The pages as a browser shows them, on a phone and on a desk, and who may call from a page of
# another site. By Chromium, if this machine has one, led by "playwright-core" from npm.
# shellcheck shell=bash disable=SC2154 # script/outside sets them
browser=""
for name in "${VITALS_BROWSER:-}" chromium chromium-browser google-chrome; do
  if [ -n "$name" ] && [ -z "$browser" ]; then browser=$(command -v "$name" || true); fi
done
if [ -z "$browser" ]; then
  printf 'browser    NOT ASKED: there is no Chromium here (VITALS_BROWSER names one)\n' >&2
else
  node_with playwright-core@1.65.1
  NODE_PATH="$node_dir/node_modules" node tests/outside/browser.cjs "$vitals" "$scratch" "$browser"
fi
