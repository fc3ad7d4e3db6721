#!/usr/bin/env bash
# Run a command with a power mode and fixed clocks, and restore both afterwards, however it ends.
#
#   sudo jetson/steady.sh [--mode N] [--user NAME] COMMAND...     as the user who called sudo, or another
set -euo pipefail

MODE=
RUN_AS=${SUDO_USER:-root}
STORED=
EARLIER=

main() {
    while [[ ${1-} == --* ]]; do
        read_option "$1" "${2-}"
        shift 2
    done
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
    run_as_user "$@"
}

read_option() {
    case $1 in
        --mode)
            MODE=$2
            [[ $MODE =~ ^[0-9]+$ ]] || fail "--mode '$MODE' is no number; /etc/nvpmodel.conf has the modes"
            ;;
        --user)
            RUN_AS=$2
            getent passwd "$RUN_AS" > /dev/null || fail "--user '$RUN_AS' is no user of this machine; provision.sh adds edge"
            ;;
        *) fail "unknown option $1; there are --mode N and --user NAME" ;;
    esac
}

# nvpmodel's last line is the number of the mode.
mode() { nvpmodel -q | tail -n 1; }

# Some modes need a reboot, which nvpmodel asks for; a declined one is not set, so its exit code says nothing.
set_mode() {
    [ "$(mode)" = "$1" ] || echo no | nvpmodel -m "$1" > /dev/null || true
    [ "$(mode)" = "$1" ] || fail "mode $1 needs a reboot; run: sudo nvpmodel -m $1, reboot, and run this again"
}

# sudo has set HOME to root's, where the user's caches are not.
run_as_user() {
    if [ "$RUN_AS" != root ]; then
        set -- runuser --user "$RUN_AS" -- env "PATH=$PATH" "HOME=$(getent passwd "$RUN_AS" | cut -d : -f 6)" "$@"
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
