#!/bin/sh
# make test-browser: the HTML page's tests in headless Chromium. Wants the virtual environment's bin folder first on
# PATH. Installs Debian's packages where that is allowed. Where Chromium is missing and cannot be installed, it says so
# and ends well: a machine without a package mirror says nothing about the page.
set -eu
cd "$(dirname "$0")/../.."
if ! command -v chromedriver >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    timeout 120 apt-get update -qq || echo "test-browser: the lists of packages cannot be read" >&2
    timeout 300 apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null || true
fi
if ! command -v chromedriver >/dev/null; then
    echo "test-browser: SKIPPED, since chromium and chromium-driver are not installed and cannot be installed here" >&2
    exit 0
fi
exec python -m pytest -q tests/report/test_browser.py "$@"
