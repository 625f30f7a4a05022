#!/bin/sh
# Gives the engine images whose layers are tar archives. Layers and names come in order: an image has all layers that stand
# before its name. "load.sh --arch amd64 a.tar --tag one b.tar --tag two" makes two images that share a layer.
#
#   --arch amd64|arm64        what the images are for
#   --env NAME=VALUE, --label NAME=VALUE, --entrypoint PROGRAM    of all images
#
# Writes the archive that "docker save" writes and "docker load" reads. Every engine takes it (Docker with and without the
# containerd image store, rootless, podman) without any builder, and unlike "docker import", which up to Engine 20.10
# records its own machine's architecture whatever --platform says, it names the architecture itself. No time is in it: the
# same layers are the same image.
set -eu

fail() {
    printf '%s\n' "load.sh: error: $*" >&2
    exit 2
}

# quoted LIST TEXT: the JSON list with one string more; what would have to be escaped is refused.
quoted() {
    case $2 in *[\"\\]* | *"
"*) fail "$2 holds a quote, a backslash or a line break" ;; esac
    printf '%s' "$1${1:+,}\"$2\""
}

folder=$(mktemp -d "${TMPDIR:-/tmp}/torch-npu-builder-load.XXXXXX")
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

arch='' env='' labels='' entrypoint='' layers='' digests='' history='' images=''
while [ $# -gt 0 ]; do
    case $1 in
        --arch | --env | --label | --entrypoint | --tag) [ $# -ge 2 ] || fail "$1 needs a value" ;;
        -*) fail "unknown option $1" ;;
        *)
            digest=$(sha256sum "$1")
            digest=${digest%% *}
            ln -sf "$(readlink -f "$1")" "$folder/$digest.tar"
            layers=$(quoted "$layers" "$digest.tar")
            digests=$(quoted "$digests" "sha256:$digest")
            # An engine that adds a layer copies what is said of those below it, and podman takes no layer unsaid.
            history="$history${history:+,}{\"created\":\"1970-01-01T00:00:00Z\",\"created_by\":\"load.sh\"}"
            shift
            continue ;;
    esac
    case $1 in
        --arch)
            case $2 in amd64 | arm64) arch=$2 ;; *) fail "--arch '$2': expected amd64 or arm64" ;; esac ;;
        --env) env=$(quoted "$env" "$2") ;;
        --label) labels=$(quoted "$labels" "${2%%=*}"):$(quoted '' "${2#*=}") ;;
        --entrypoint) entrypoint='"Entrypoint":['$(quoted '' "$2")'],' ;;
        --tag)
            [ -n "$arch" ] || fail "--arch is missing before --tag $2"
            [ -n "$layers" ] || fail "no layer stands before --tag $2"
            printf '{"architecture":"%s","os":"linux","created":"1970-01-01T00:00:00Z","config":{%s"Env":[%s],"Cmd":["/bin/sh"],"Labels":{%s}},"history":[%s],"rootfs":{"type":"layers","diff_ids":[%s]}}\n' \
                "$arch" "$entrypoint" "$env" "$labels" "$history" "$digests" >"$folder/config"
            config=$(sha256sum "$folder/config")
            config=${config%% *}.json
            mv "$folder/config" "$folder/$config"
            images="$images${images:+,}{\"Config\":\"$config\",\"RepoTags\":[$(quoted '' "$2")],\"Layers\":[$layers]}" ;;
    esac
    shift 2
done
[ -n "$images" ] || fail "--tag is missing"
printf '[%s]\n' "$images" >"$folder/manifest.json"
tar -C "$folder" --dereference --sort=name -cf - . | docker load --quiet >&2
