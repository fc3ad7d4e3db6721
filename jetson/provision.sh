#!/usr/bin/env bash
# Install early-exit and its service on a Jetson with JetPack 6.1 or later, or, for the CPU, on Debian and Ubuntu.
#
#   sudo jetson/provision.sh             install what is missing; a second run changes nothing
#   jetson/provision.sh --dry-run        print the commands instead
set -euo pipefail

CHECKOUT=$(cd "$(dirname "$0")/.." && pwd)
VENV=/opt/early-exit
SETTINGS=/etc/early-exit.env
UNIT=/etc/systemd/system/early-exit.service
PACKAGES=(python3-venv python3-opencv gstreamer1.0-tools gstreamer1.0-plugins-good gstreamer1.0-plugins-bad)
# pip builds pycuda with the CUDA toolkit. Some images lack TensorRT's Python module.
JETSON_PACKAGES=(nvidia-jetpack python3-libnvinfer nvidia-l4t-gstreamer python3-dev g++)

# The system's OpenCV was built for NumPy 1 up to Python 3.12, in Debian and Ubuntu, and for NumPy 2 from 3.13 on.
NUMPY='numpy>=1.26,<2; python_version < "3.13"'

DRY_RUN=no
CHANGES=0

main() {
    read_arguments "$@"
    check_system
    install_packages
    add_user
    add_folders
    create_environment
    install_project
    install_service
    report
}

read_arguments() {
    case "${1-}" in
        "") ;;
        --dry-run) DRY_RUN=yes ;;
        *) fail "unknown argument $1; give --dry-run or nothing" ;;
    esac
}

check_system() {
    if [ "$DRY_RUN" = no ] && [ "$(id -u)" != 0 ]; then
        fail "this changes the system; run it with sudo, or add --dry-run"
    fi
    [ "$CHECKOUT" != "$VENV/source" ] || fail "this is the installed copy; run provision.sh in the checkout it came from"
    command -v apt-get > /dev/null || fail "there is no apt-get; JetPack, Debian and Ubuntu have it"
    if is_jetson; then
        PACKAGES+=("${JETSON_PACKAGES[@]}")
        is_recent || fail "this is L4T $(l4t_version), before JetPack 6.1; flash JetPack 6.2 or 7.2 with NVIDIA's SDK Manager"
    fi
}

is_jetson() { [ -e /etc/nv_tegra_release ]; }

# L4T 36.4 came with JetPack 6.1, the first with TensorRT 10.3.
is_recent() { printf '36.4\n%s\n' "$(l4t_version)" | sort --check --version-sort 2> /dev/null; }

l4t_version() { sed -n 's/^# R\([0-9]*\) .*REVISION: \([0-9.]*\).*/\1.\2/p' /etc/nv_tegra_release; }

install_packages() {
    local package missing=()
    for package in "${PACKAGES[@]}"; do
        [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2> /dev/null)" = installed ] ||
            missing+=("$package")
    done
    if [ ${#missing[@]} != 0 ]; then
        change apt-get update
        change env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}"
    fi
}

add_user() {
    local group
    id edge > /dev/null 2>&1 ||
        change useradd --system --user-group --home-dir /var/lib/early-exit --shell /usr/sbin/nologin edge
    for group in video render; do
        getent group "$group" > /dev/null || change groupadd --system "$group"
        id -nG edge 2> /dev/null | grep -qw "$group" || change usermod --append --groups "$group" edge
    done
}

add_folders() {
    local folder
    for folder in /var/lib/early-exit /var/cache/early-exit; do
        [ -d "$folder" ] || change install --directory --owner edge --group edge --mode 700 "$folder"
    done
}

# The system's packages stay visible: JetPack's TensorRT, and an OpenCV with GStreamer.
create_environment() {
    [ -x "$VENV/bin/python" ] || change python3 -m venv --system-site-packages "$VENV"
}

install_project() {
    local digest source extras=live
    digest=$(cd "$CHECKOUT" && find pyproject.toml edge calibration compile jetson -type f -not -name '*.pyc' -print0 |
        sort -z | xargs -0 sha256sum | sha256sum | cut -d ' ' -f 1)
    [ "$(cat "$VENV/installed" 2> /dev/null)" != "$digest" ] || return 0
    is_jetson && extras=live,$(cuda_extra)
    # A copy, since pip leaves a build folder beside the sources, whose modules a later version may not have. The service's
    # user can read acceptance.py there.
    source=$VENV/source
    change rm --recursive --force "$source"
    change mkdir "$source"
    change cp --recursive "$CHECKOUT"/{pyproject.toml,README.md,LICENSE,edge,calibration,compile,jetson} "$source"
    change env PATH="/usr/local/cuda/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1 \
        "$VENV/bin/pip" install --quiet "${source}[$extras]" "$NUMPY"
    [ "$DRY_RUN" = yes ] || echo "$digest" > "$VENV/installed"
}

cuda_extra() { if [ "$(l4t_version | cut -d . -f 1)" -ge 38 ]; then echo cuda13; else echo cuda12; fi; }

install_service() {
    [ -e "$SETTINGS" ] || change install --mode 644 "$CHECKOUT/jetson/early-exit.env" "$SETTINGS"
    if ! cmp --silent "$CHECKOUT/jetson/early-exit.service" "$UNIT"; then
        change install -D --mode 644 "$CHECKOUT/jetson/early-exit.service" "$UNIT"
        [ ! -d /run/systemd/system ] || change systemctl daemon-reload
    fi
}

report() {
    if [ "$CHANGES" = 0 ]; then
        echo "nothing to change"
    elif [ "$DRY_RUN" = yes ]; then
        echo "$CHANGES commands would run; nothing was changed"
    else
        echo "$CHANGES commands ran"
    fi
    echo "next: copy a bundle to $VENV/bundle, edit $SETTINGS, then sudo systemctl enable --now early-exit"
}

# Run a command that changes the system, or print it.
change() {
    CHANGES=$((CHANGES + 1))
    echo "+ ${*@Q}"
    [ "$DRY_RUN" = yes ] || "$@"
}

fail() {
    echo "error: $1" >&2
    exit 2
}

main "$@"
