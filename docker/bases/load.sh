#!/bin/sh
# Gives the engine an image whose layers are tar archives: load.sh --tag NAME --arch amd64|arm64 [--env NAME=VALUE]...
# [--label NAME=VALUE]... LAYER.tar...
#
# Writes the archive that "docker save" writes and "docker load" reads. Every engine takes it (Docker with and without
# the containerd image store, rootless, podman) without any builder, and unlike "docker import", which up to Engine 20.10
# records its own machine's architecture whatever --platform says, it names the architecture itself. No time is in it: the
# same layers are the same image. A layer is asked for by the engine only where it does not have it.
set -eu

fail() {
    printf '%s\n' "load.sh: error: $*" >&2
    exit 2
}

# Appends a JSON string to a list; what would have to be escaped is refused.
quoted() {
    case $2 in *[\"\\]* | *"
"*) fail "$2 holds a quote, a backslash or a line break" ;; esac
    printf '%s' "$1${1:+,}\"$2\""
}

tag='' arch='' env='' labels=''
while [ $# -gt 0 ]; do
    case $1 in
        --tag | --arch | --env | --label) [ $# -ge 2 ] || fail "$1 needs a value" ;;
        -*) fail "unknown option $1" ;;
        *) break ;;
    esac
    case $1 in
        --tag) tag=$2 ;;
        --arch) arch=$2 ;;
        --env) env=$(quoted "$env" "$2") ;;
        --label) labels=$(quoted "$labels" "${2%%=*}"):$(quoted '' "${2#*=}") ;;
    esac
    shift 2
done
[ -n "$tag" ] || fail "--tag is missing"
case $arch in amd64 | arm64) ;; *) fail "--arch '$arch': expected amd64 or arm64" ;; esac
[ $# -gt 0 ] || fail "no layer is named"

folder=$(mktemp -d "${TMPDIR:-/tmp}/torch-npu-builder-load.XXXXXX")
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

layers='' digests=''
for layer; do
    digest=$(sha256sum "$layer")
    digest=${digest%% *}
    ln -sf "$(readlink -f "$layer")" "$folder/$digest.tar"
    layers=$(quoted "$layers" "$digest.tar")
    digests=$(quoted "$digests" "sha256:$digest")
done
printf '{"architecture":"%s","os":"linux","created":"1970-01-01T00:00:00Z","config":{"Env":[%s],"Cmd":["/bin/sh"],"Labels":{%s}},"rootfs":{"type":"layers","diff_ids":[%s]}}\n' \
    "$arch" "$env" "$labels" "$digests" >"$folder/config.json"
config=$(sha256sum "$folder/config.json")
config=${config%% *}.json
mv "$folder/config.json" "$folder/$config"
printf '[{"Config":"%s","RepoTags":["%s"],"Layers":[%s]}]\n' "$config" "$tag" "$layers" >"$folder/manifest.json"
tar -C "$folder" --dereference --sort=name -cf - . | docker load --quiet >&2
