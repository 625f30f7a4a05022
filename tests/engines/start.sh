#!/bin/sh
# Start a container engine for tests, beside the machine's own: in namespaces of its own for network, mounts and
# processes, with all that it keeps in FOLDER. Prints its DOCKER_HOST when it answers, then stays; end it by its
# process number (TERM): the engine ends, and what it kept is removed.
#
#   start.sh docker FOLDER             Debian trixie's docker.io
#   start.sh docker-containerd FOLDER  the same with the containerd image store
#   start.sh docker-userns FOLDER      the same with userns-remap
#   start.sh podman FOLDER             this machine's podman, its Docker socket
#   start.sh rootless FOLDER           this machine's docker.io, as user 61100
#
# UPLINK=yes leads out of its network, by slirp4netns. HIDE=DIR gives the engine an empty folder of its own there, as
# PrivateTmp does. TRIXIE=DIR is where trixie's packages are unpacked (once). Exit code 3: this machine cannot run it,
# with the reason.
set -eu

say() { printf '%s\n' "$*" >&2; }
fail() { code=$1; shift; say "error: $*"; exit "$code"; }

inside=
if [ "${1:-}" = --inside ]; then
    inside=yes
    shift
fi
[ $# = 2 ] || fail 2 "expected: start.sh KIND FOLDER"
kind=$1 folder=$2
: "${TRIXIE:=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/torch-npu-builder-tests/trixie}"

# A user with numbers of its own, whom this machine need not have.
add_user() {
    cp /etc/passwd /etc/group "$folder"
    echo "$1:x:61100:61100::$folder/home:/bin/sh" >>"$folder/passwd"
    echo "$1:x:61100:" >>"$folder/group"
    echo "$1:700000:65536" >"$folder/subid"
    for file in passwd group; do mount --bind "$folder/$file" "/etc/$file"; done
    for file in subuid subgid; do
        touch "/etc/$file"
        mount --bind "$folder/subid" "/etc/$file"
    done
}

# The first process of the namespaces, which becomes the engine.
become_engine() {
    mount --make-rprivate /
    ip link set lo up
    if [ -n "${HIDE:-}" ]; then mount -t tmpfs -o mode=1777 tmpfs "$HIDE"; fi
    case $kind in
        docker*)
            case $kind in
                *-containerd) echo '{"features": {"containerd-snapshotter": true}}' ;;
                *-userns) echo '{"userns-remap": "remapped"}' ;;
                *) echo '{}' ;;
            esac >"$folder/daemon.json"
            if [ "$kind" = docker-userns ]; then add_user remapped; fi
            # From here on all programs are trixie's, at the places that they expect.
            mount --rbind "$TRIXIE/usr" /usr
            exec dockerd --config-file "$folder/daemon.json" --data-root "$folder/data" --exec-root "$folder/exec" \
                --pidfile "$folder/pid" --host "unix://$folder/docker.sock" ;;
        podman)
            # Where root may not raise limits (CAP_SYS_RESOURCE) podman's own of a million files cannot be set; crun
            # refuses machines with both kinds of cgroups.
            files=$(prlimit --pid $$ --nofile --output HARD --noheadings --raw)
            if [ "$files" = unlimited ]; then files=65536; fi
            cat >"$folder/containers.conf" <<EOF
[containers]
default_ulimits = ["nofile=$files:$files", "nproc=20000:20000"]
[network]
network_backend = "netavark"
network_config_dir = "$folder/networks"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
EOF
            CONTAINERS_CONF=$folder/containers.conf exec podman --root "$folder/data" --runroot "$folder/exec" \
                --tmpdir "$folder/tmp" system service --time 0 "unix://$folder/docker.sock" ;;
        rootless)
            add_user rootless
            # Machines with an init system let every user open it.
            mount -t tmpfs -o mode=755 tmpfs /dev/net
            mknod -m 666 /dev/net/tun c 10 200
            exec setpriv --reuid 61100 --regid 61100 --clear-groups env -i \
                PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME="$folder/home" XDG_RUNTIME_DIR="$folder/run" \
                DOCKERD_ROOTLESS_ROOTLESSKIT_NET=slirp4netns "$contrib/dockerd-rootless.sh" \
                --data-root "$folder/home/data" --storage-driver vfs ;;
    esac
}

contrib=/usr/share/docker.io/contrib
if [ -n "$inside" ]; then become_engine; fi

[ "$(id -u)" = 0 ] || fail 3 "namespaces for another engine need root"
for program in unshare setpriv ip docker; do
    command -v "$program" >/dev/null || fail 3 "$program is missing (packages util-linux, iproute2, docker.io)"
done
unshare --net --mount --pid --fork true 2>/dev/null || fail 3 "this machine gives root no new namespaces"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd -P)

# Debian trixie's docker.io and what it needs, unpacked beside this machine's own packages.
unpack_trixie() {
    [ -x "$TRIXIE/usr/sbin/dockerd" ] && return
    command -v apt-get >/dev/null || fail 3 "trixie's packages need apt-get"
    # shellcheck disable=SC2016 # apt-get itself fills it in
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
        head -n 1)
    [ -n "$mirror" ] || fail 3 "apt's lists name no Debian mirror: run apt-get update"
    mkdir -p "$TRIXIE.apt/lists/partial" "$TRIXIE.apt/archives/partial" "$TRIXIE.new"
    : >"$TRIXIE.apt/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$TRIXIE.apt/sources"
    cat >"$TRIXIE.apt/conf" <<EOF
Dir::State::lists "$TRIXIE.apt/lists"; Dir::State::status "$TRIXIE.apt/status"; Dir::Cache "$TRIXIE.apt";
Dir::Etc::SourceList "$TRIXIE.apt/sources"; Dir::Etc::SourceParts "/dev/null"; Dir::Etc::Parts "/dev/null";
Dir::Etc::PreferencesParts "/dev/null"; APT::Install-Recommends "false"; APT::Sandbox::User "root";
EOF
    APT_CONFIG=$TRIXIE.apt/conf apt-get update -qq >&2 || fail 3 "trixie's package lists cannot be had"
    # Nothing counts as installed, so that all that docker.io needs is there, the C library too.
    APT_CONFIG=$TRIXIE.apt/conf apt-get install -qq --yes --download-only docker.io iptables iproute2 >&2 ||
        fail 3 "trixie's docker.io cannot be had"
    for package in "$TRIXIE.apt"/archives/*.deb; do dpkg-deb --extract "$package" "$TRIXIE.new"; done
    # What the packages' own scripts would choose.
    ln -sf iptables-nft "$TRIXIE.new/usr/sbin/iptables"
    ln -sf ip6tables-nft "$TRIXIE.new/usr/sbin/ip6tables"
    rm -rf "$TRIXIE" "$TRIXIE.apt"
    mv "$TRIXIE.new" "$TRIXIE"
}

socket=$folder/docker.sock
case $kind in
    docker | docker-containerd | docker-userns) unpack_trixie ;;
    podman) command -v podman >/dev/null || fail 3 "podman is missing (package podman, with netavark and runc)" ;;
    rootless)
        for program in rootlesskit slirp4netns newuidmap; do
            command -v "$program" >/dev/null ||
                fail 3 "$program is missing (packages rootlesskit, slirp4netns, uidmap)"
        done
        [ -x "$contrib/dockerd-rootless.sh" ] || fail 3 "$contrib/dockerd-rootless.sh is missing (package docker.io)"
        [ -c /dev/net/tun ] || fail 3 "this machine has no /dev/net/tun"
        mkdir -p "$folder/home" "$folder/run"
        chown 61100:61100 "$folder/home" "$folder/run"
        chmod 700 "$folder/run"
        socket=$folder/run/docker.sock ;;
    *) fail 2 "$kind: expected docker, docker-containerd, docker-userns, podman or rootless" ;;
esac

TRIXIE=$TRIXIE HIDE=${HIDE:-} unshare --net --mount --pid --fork --mount-proc --kill-child=KILL \
    sh "$0" --inside "$kind" "$folder" >"$folder/log" 2>&1 &
engine=$!
first=''
uplink=''
# shellcheck disable=SC2329 # the traps call it
end() {
    trap - EXIT INT TERM HUP
    [ -z "$uplink" ] || kill "$uplink" 2>/dev/null || true
    # unshare itself passes no signals on; it ends with the first process of the namespaces, and the rest with that.
    if [ -n "$first" ]; then
        kill "$first" 2>/dev/null || true
        for _ in $(seq 150); do
            [ -d "/proc/$first" ] || break
            sleep 0.1
        done
        kill -9 "$first" 2>/dev/null || true
    fi
    rm -rf --one-file-system "$folder/data" "$folder/exec"* "${folder:?}/home" "$folder/run" "$folder/tmp" "$socket"
}
trap end EXIT
trap 'end; exit 143' INT TERM HUP

for _ in $(seq 300); do
    [ -n "$first" ] || read -r first _ <"/proc/$engine/task/$engine/children" || true
    if [ -n "$first" ] && [ "${UPLINK:-}" = yes ] && [ -z "$uplink" ]; then
        slirp4netns --configure --mtu=65520 "$first" tap0 >>"$folder/log" 2>&1 &
        uplink=$!
    fi
    if [ -S "$socket" ] && docker --host "unix://$socket" version >/dev/null 2>&1; then
        printf 'unix://%s\n' "$socket"
        wait "$engine" || true
        fail 1 "the engine ended: $(tail -n 3 "$folder/log")"
    fi
    [ -d "/proc/$engine" ] || fail 3 "the engine does not start: $(tail -n 3 "$folder/log")"
    sleep 0.1
done
fail 3 "the engine does not answer: $(tail -n 3 "$folder/log")"
