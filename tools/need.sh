#!/bin/sh
# Make sure that Debian packages are there: installed when root, else the command is printed.
#
#   sh tools/need.sh PACKAGE...
set -eu

command -v dpkg-query >/dev/null 2>&1 || {
    echo "not a Debian system: make sure that it has the equivalent of: $*" >&2
    exit 0
}
missing=""
for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -eq 0 ]; then
    # The output is shown only when it fails.
    log=$(mktemp)
    # shellcheck disable=SC2086  # a list of package names
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; } \
        >"$log" 2>&1 || { cat "$log" >&2; rm -f "$log"; exit 1; }
    rm -f "$log"
else
    # Not fatal: what is missing may be there in another form, and tests that need it skip and say so.
    echo "not root: if anything below complains, run: sudo apt-get install$missing" >&2
fi
