# What vitals tells Prometheus, by Prometheus's own "promtool": the alerts of deploy/ on series
# that were made up for them, the metrics as they are scraped, and whether alerts and dashboard
# ask for anything that is not there.
# shellcheck shell=bash disable=SC2154 # script/outside sets them
promtool=$(command -v promtool || true)
if [ -z "$promtool" ]; then
  need apt-get
  need dpkg-deb
  deb="$outside/deb-prometheus"
  if [ ! -e "$deb/whole" ]; then
    rm -rf "$deb"
    mkdir -p "$deb"
    # Taken apart and not installed: installing would start a server.
    (cd "$deb" && fetch "the Debian package prometheus" apt-get download prometheus)
    dpkg-deb -x "$deb"/prometheus_*.deb "$deb"
    touch "$deb/whole"
  fi
  promtool="$deb/usr/bin/promtool"
fi
"$promtool" check rules deploy/prometheus/alerts.yml
"$promtool" test rules deploy/prometheus/alerts_test.yml
python3 tests/outside/metrics.py "$vitals" "$scratch" "$promtool"
