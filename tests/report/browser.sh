#!/bin/sh
# make test-browser: the HTML page's tests in headless Chromium. Wants the virtual environment's bin folder first on
# PATH. Installs Debian's packages where that is allowed; otherwise the tests say what is missing and are skipped.
set -eu
cd "$(dirname "$0")/../.."
if ! command -v chromedriver >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq || true
    apt-get install -y -qq --no-install-recommends chromium chromium-driver
fi
exec python -m pytest -q tests/report/test_browser.py "$@"
