#!/usr/bin/env bash
# Make .venv in the repository and install complexnn with what it needs. Sourced by the other
# scripts; a second call finds everything in place. PYTHON names another interpreter (3.10 or newer).
# AS_IT_IS=1 installs nothing and takes PYTHON as it is, for machines without a network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

interpreter=.venv/bin/python
if [[ -n ${AS_IT_IS:-} ]]; then
    interpreter=${PYTHON:-python3}
elif [[ ! -x .venv/bin/python ]]; then
    python=${PYTHON:-}
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        [[ -n $python ]] && break
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            python=$candidate
        fi
    done
    if [[ -z $python ]]; then
        echo "error: no Python 3.10 or newer found; set PYTHON=/path/to/python" >&2
        exit 2
    fi
    "$python" -m venv .venv
fi

install() { # install FILE: unless this very version of it was installed before
    local stamp=.venv/$1.installed
    if [[ -z ${AS_IT_IS:-} ]] && ! cmp -s "$1" "$stamp"; then
        # On Linux these two versions are known to install together.
        .venv/bin/python -m pip install --quiet --disable-pip-version-check \
            -c scripts/constraints.txt -r "$1"
        cp "$1" "$stamp"
    fi
}
install requirements.txt

campaign() { # campaign FLAGS: run the commands on standard input; --dry-run shows them
    if [[ " $* " == *" --list "* ]]; then
        cat # as the campaign would, without its start: scripts list each other's commands
    else
        "$interpreter" -m complexnn.campaign "$@"
    fi
}
