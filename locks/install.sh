#!/usr/bin/env bash
# Install locked packages into a virtual environment: locks/install.sh BIN LABEL LOCK...
# uv is used where it is on the path, else the pinned pip of locks/pip.txt; each file is checked against its hash.
set -euo pipefail
bin=$1 label=$2
shift 2
options=(--require-hashes) count=0
for lock in "$@"; do
  options+=(--requirement "$lock")
  count=$((count + $(grep -c '==' "$lock")))
done
echo "Installing $label: $count packages from the package index; this takes minutes on the first day."
with_pip() { "$bin/python" -m pip install --no-input --disable-pip-version-check "$@"; }
with_pip --quiet --require-hashes --requirement locks/pip.txt
if command -v uv >/dev/null && uv pip install --python "$bin/python" "${options[@]}"; then
  :
else
  ! command -v uv >/dev/null || echo "uv could not install them (it does not read pip's settings); going on with pip."
  with_pip "${options[@]}"
fi
# The project itself, as a link to this folder.
with_pip --quiet --no-deps --no-build-isolation --editable .
echo "Installed into $bin; \`$bin/cxr --help\` lists the commands."
