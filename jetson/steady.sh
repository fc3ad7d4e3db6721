#!/usr/bin/env bash
# Run a command with a power mode and fixed clocks, and restore both afterwards, however it ends.
#
#   sudo jetson/steady.sh [--mode N] COMMAND...     as the user who called sudo
set -euo pipefail

MODE=
STORED=
EARLIER=

main() {
    if [ "${1-}" = --mode ]; then
        MODE=${2-}
        [[ $MODE =~ ^[0-9]+$ ]] || fail "--mode '$MODE' is no number; /etc/nvpmodel.conf has the modes"
        shift 2
    fi
    [ $# != 0 ] || fail "no command; give one, such as: edge bench BUNDLE"
    [ "$(id -u)" = 0 ] || fail "power mode and clocks are root's; run it with sudo"
    command -v nvpmodel > /dev/null || fail "there is no nvpmodel; this is for a Jetson"
    command -v jetson_clocks > /dev/null || fail "there is no jetson_clocks; this is for a Jetson"
    EARLIER=$(mode)
    STORED=$(mktemp -d)/clocks
    trap restore EXIT
    trap : INT TERM  # bash waits for the command, which ends by itself
    [ -z "$MODE" ] || set_mode "$MODE"
    jetson_clocks --store "$STORED"
    jetson_clocks
    run_as_caller "$@"
}

# nvpmodel's last line is the number of the mode.
mode() { nvpmodel -q | tail -n 1; }

# Some modes need a reboot, which nvpmodel asks for; a declined one is not set, so its exit code says nothing.
set_mode() {
    [ "$(mode)" = "$1" ] || echo no | nvpmodel -m "$1" > /dev/null || true
    [ "$(mode)" = "$1" ] || fail "mode $1 needs a reboot; run: sudo nvpmodel -m $1, reboot, and run this again"
}

run_as_caller() {
    if [ -n "${SUDO_USER-}" ] && [ "$SUDO_USER" != root ]; then
        set -- runuser --user "$SUDO_USER" -- env "PATH=$PATH" "$@"
    fi
    "$@"
}

# shellcheck disable=SC2317  # called by a trap
restore() {
    local code=$?
    trap '' INT TERM
    set +e # whichever fails, the other is restored, and the exit code is the command's
    [ ! -e "$STORED" ] || jetson_clocks --restore "$STORED" ||
        echo "error: the clocks were not restored; reboot to restore them" >&2
    rm -rf "${STORED%/*}"
    [ "$(mode)" = "$EARLIER" ] || echo no | nvpmodel -m "$EARLIER" > /dev/null
    [ "$(mode)" = "$EARLIER" ] || echo "error: the mode was not restored; run: sudo nvpmodel -m $EARLIER" >&2
    exit "$code"
}

fail() {
    echo "error: $1" >&2
    exit 2
}

main "$@"
