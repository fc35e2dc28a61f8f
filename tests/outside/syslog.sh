# What is told to syslog, as Debian's rsyslog takes it: TLS by GnuTLS, RFC 5424, and the
# structured data apart. Elsewhere than on Debian there is nothing to hold it against.
# shellcheck shell=bash disable=SC2154 # script/outside sets them
need openssl
need python3
if debian_with rsyslog rsyslog-gnutls libestr0 libfastjson4 liblognorm5; then
  modules=$(dirname "$(find "$debian" -name lmnsd_gtls.so)")
  LD_LIBRARY_PATH="$(dirname "$modules")" python3 tests/outside/syslog.py \
    "$vitals" "$scratch" "$debian/usr/sbin/rsyslogd" "$modules"
else
  printf 'skipped    syslog: no apt here\n' >&2
fi
