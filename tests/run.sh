#!/usr/bin/env bash
# Everything that has to hold before a change goes in: ruff, mypy --strict, and the tests.
#
#   bash tests/run.sh                   all of it
#   bash tests/run.sh --fast            without real kernels, Ray, browsers and slow tests
#   bash tests/run.sh [--fast] ARGS     ARGS go to pytest, for instance: -k cron  or  tests/reaper
#
# It needs Python >= 3.11 and makes its own environment in .venv-test at the first run, and again when
# pyproject.toml has changed. PYTHON=/path/to/python chooses the interpreter.
# Written for bash 3.2, which is what macOS has.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv-test
not_marked=()

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'tests/run.sh: %s\n' "$*" >&2; exit 1; }

# -- a Python that is new enough ---------------------------------------------------------------------

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || fail "PYTHON=$PYTHON is no Python >= 3.11"
        printf '%s\n' "$PYTHON"
        return
    fi
    # Ray has no wheels for Python 3.14, so the others come first.
    for candidate in python3.13 python3.12 python3.11 python3 python3.14; do
        if command -v "$candidate" >/dev/null && new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "no Python >= 3.11 found (looked for python3.11 to python3.14 and python3). Install one
(Debian, Ubuntu: apt-get install python3 python3-venv; macOS: brew install python@3.13), or name it:
PYTHON=/path/to/python bash tests/run.sh"
}

# -- packages of the system --------------------------------------------------------------------------

as_root=()
may_apt() {
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -eq 0 ]; then
        return 0
    fi
    as_root=(sudo -n)
    command -v sudo >/dev/null && sudo -n true 2>/dev/null
}

# Debian starts a server that it installs. The tests start their own, on loopback and on free ports, so
# while apt runs, a policy forbids it; one that is there already is left as it is.
policy=/usr/sbin/policy-rc.d
policy_is_ours=no

forbid_services() {
    if [ ! -e "$policy" ]; then
        policy_is_ours=yes
        printf '#!/bin/sh\nexit 101\n' | ${as_root[@]+"${as_root[@]}"} tee "$policy" >/dev/null
        ${as_root[@]+"${as_root[@]}"} chmod 755 "$policy"
    fi
}

allow_services() {
    if [ "$policy_is_ours" = yes ]; then
        ${as_root[@]+"${as_root[@]}"} rm -f "$policy"
        policy_is_ours=no
    fi
}
trap allow_services EXIT

apt_install() {
    local status=0
    forbid_services
    {
        ${as_root[@]+"${as_root[@]}"} apt-get update -qq &&
            ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive \
                apt-get install -y -qq --no-install-recommends "$@"
    } || status=$?
    allow_services
    return "$status"
}

has_browser() {
    local program
    for program in chromium chromium-browser google-chrome chrome; do
        if command -v "$program" >/dev/null; then
            return
        fi
    done
    return 1
}

install_programs() {
    local missing="" program
    for program in redis-server memcached; do
        # Debian has servers in /usr/bin, but some systems in sbin, which is not on every PATH.
        PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v "$program" >/dev/null ||
            missing="$missing $program"
    done
    # The browser's tests take any Chromium; on macOS they are run where there is one already.
    if command -v apt-get >/dev/null && ! has_browser; then
        missing="$missing chromium"
    fi
    if [ -z "$missing" ]; then
        return
    fi
    say "installing$missing"
    # The words of $missing are the names of Debian's packages; brew calls redis-server redis.
    # shellcheck disable=SC2086
    if may_apt && apt_install $missing; then
        return
    elif may_apt && apt_install ${missing/chromium/}; then  # Ubuntu has Chromium as a snap only
        return
    elif command -v brew >/dev/null && brew install ${missing/redis-server/redis}; then
        return
    fi
    printf 'tests/run.sh: could not install%s here; the tests that need it are skipped.\n' "$missing" >&2
}

# -- the environment ---------------------------------------------------------------------------------

make_environment() {
    local python=$1
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        local package
        package="$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
        say "installing $package"
        if ! may_apt || ! apt_install "$package"; then
            fail "$python cannot make a virtual environment. Install its venv module
(Debian, Ubuntu: sudo apt-get install $package)."
        fi
    fi
    rm -rf "$venv"
    "$python" -m venv "$venv"
}

prepare() {
    # The stamp is what the environment was made from; paths count too, it does not survive a move.
    local python stamp
    python="$(find_python)"
    stamp="$("$python" -c 'import sys; print(sys.version)') $PWD $(cksum <pyproject.toml)"
    if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/stamp" 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    say "preparing $venv with $("$python" --version)"
    make_environment "$python"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[test,server]'
    printf '%s\n' "$stamp" >"$venv/stamp"
}

# -- the checks --------------------------------------------------------------------------------------

failed=""
check() {
    local name=$1
    shift
    say "$name"
    "$@" || failed="$failed $name"
}

case "${1:-}" in
    -h | --help)
        sed -n '2,/^set/{/^#/s/^# \{0,1\}//p;}' tests/run.sh
        exit 0
        ;;
    --fast)
        shift
        not_marked=(-m "not kernel and not ray and not browser and not slow")
        ;;
esac

install_programs
prepare
export PATH="$PWD/$venv/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin"

check ruff ruff check
check mypy mypy --strict autostop_lab
check pytest python -m pytest ${not_marked[@]+"${not_marked[@]}"} "$@"

if [ -n "$failed" ]; then
    fail "failed:$failed"
fi
say "all is well"
