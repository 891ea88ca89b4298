#!/bin/sh
# Makes .venv from one of the lock files. If it is there already, this ends within milliseconds.
#
#   sh deploy/setup.sh requirements.lock        what `make run` needs
#   sh deploy/setup.sh requirements-dev.lock    the same and what `make test` and `make check` need
#
# PYTHON names the interpreter. Without it, the first Python 3.11 or newer on the PATH is used. Nothing is installed outside
# .venv. The packages come from the index that this machine's pip uses, and the lock files hold their hashes.
set -eu

lock=$1
venv=.venv
stamps="$venv/.installed"    # one empty file per lock, written last, so an interrupted set-up starts again

# These settings could make pip install elsewhere, or Python search elsewhere.
unset PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_REQUIRE_VIRTUALENV PIP_REQUIRE_HASHES PIP_NO_DEPS
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

fail() {
    printf '\nerror: %s\n' "$1" >&2
    exit 1
}

# An installation depends on these files. It is repeated when a branch or a pull changes one of them.
fingerprint() {
    cat requirements.lock requirements-dev.lock pyproject.toml proto/extproc.proto proto/build_pb.py | cksum | tr -d ' '
}

is_ready() {
    [ -f "$stamps/$lock.$1" ] && [ -f router/extproc/pb/extproc_pb2.py ] && "$venv/bin/python" -c '' 2>/dev/null
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if command -v "$candidate" >/dev/null && is_new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    found=$("${PYTHON:-python3}" --version 2>/dev/null || echo "nothing")
    fail "Python 3.11 or newer is needed; ${PYTHON:-python3} is: $found. Install it, or name it: make run PYTHON=/path/to/python3.12"
}

# The Envoy wheel exists for these systems only: manylinux_2_31 on x86_64 and aarch64, macOS 15 on arm64.
check_machine() {
    "$1" - <<'PYTHON' || exit 1
import importlib.util
import platform
import sys


def version(text):
    return tuple(int(part) for part in text.split(".")[:2])


system, machine = platform.system(), platform.machine()
libc, libc_version = platform.libc_ver()
if system == "Linux" and machine in ("x86_64", "aarch64"):
    ok = libc == "glibc" and version(libc_version) >= (2, 31)
    found = "Linux %s with %s %s" % (machine, libc or "no glibc", libc_version)
else:
    ok = system == "Darwin" and machine == "arm64" and version(platform.mac_ver()[0]) >= (15, 0)
    found = "%s %s %s" % (system, platform.mac_ver()[0], machine)
if not ok:
    sys.exit(
        "\nerror: Envoy 1.40 comes as a wheel for Linux (x86_64 or aarch64, glibc 2.31 or newer) and macOS 15 (arm64); "
        "this is %s.\nUse containers instead: docker compose --profile testing up --build" % found
    )
if not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
    sys.exit(
        "\nerror: this Python cannot make virtual environments. On Debian and Ubuntu: apt install python%d.%d-venv"
        % sys.version_info[:2]
    )
PYTHON
}

make_venv() {
    if "$venv/bin/python" -m pip --version >/dev/null 2>&1 && is_new_enough "$venv/bin/python"; then
        echo "[1/3] $venv is there: $("$venv/bin/python" --version)"
        return
    fi
    python=$(find_python)
    check_machine "$python"
    echo "[1/3] making $venv with $("$python" --version), $python"
    rm -rf "$venv"
    "$python" -m venv "$venv"
}

install() {
    began=$(date +%s)
    echo "[2/3] installing $(grep -c '==' "$lock") locked packages from $lock; about 120 MB and half a minute the first time"
    "$venv/bin/python" -m pip install --require-hashes --no-deps -r "$lock"
    echo "[3/3] installing this checkout"
    "$venv/bin/python" -m pip install --quiet --no-build-isolation --no-deps --editable .
    echo "ready after $(($(date +%s) - began)) s"
}

key=$(fingerprint)
if is_ready "$key"; then
    exit 0
fi
make_venv
rm -rf "$stamps"
install
mkdir -p "$stamps"
touch "$stamps/requirements.lock.$key" "$stamps/$lock.$key"    # the dev lock contains the other
