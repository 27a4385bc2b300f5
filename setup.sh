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

# Debian keeps venv in a package of its own.
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "installing python3-venv" >&2
    apt-get update -q && apt-get install -qy --no-install-recommends python3-venv
  else
    echo "error: Python's venv is not installed" >&2
    echo "hint: sudo apt-get install python3-venv" >&2
    exit 1
  fi
fi

# On Linux the torch of PyPI brings gigabytes of CUDA; PyTorch's own index has one for processors alone.
cpu=https://download.pytorch.org/whl/cpu
index=()
if [ "$(uname)" = Linux ] && "$python" -c "import urllib.request as r; r.urlopen('$cpu/torch/', timeout=5)" 2>/dev/null; then
  index=(--extra-index-url "$cpu")
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "installing into $venv: some minutes, once" >&2
"$venv/bin/python" -m pip install -q --disable-pip-version-check ${index[@]+"${index[@]}"} -c constraints.txt -e '.[dev]'
