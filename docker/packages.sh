#!/bin/sh
# Installs packages of the distribution, as root, in a base image: packages.sh NAME...
#
# Asked in this order, until one has them: BUILDER_PACKAGE_MIRROR (a company's copy, laid out as the archive of the
# distribution is), the base's own repositories, the distribution's archive (archives.txt beside this script). What
# the base has configured is left as it is. ca-bundle.crt beside this script is trusted, where it is there.
#
# Exit codes: 66 nobody has them or answers, 67 a signature is wrong. The last line then begins with "builder-error: ".
set -u

here=$(cd "$(dirname "$0")" && pwd)
bundle=$here/ca-bundle.crt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

# Seconds for one attempt, whatever stalls in it; packages of a whole compiler take a minute or two.
limited() {
    if command -v timeout >/dev/null 2>&1; then
        timeout 900 "$@"
    else
        "$@"
    fi
}

if [ -f /etc/os-release ]; then
    # shellcheck disable=SC1091
    . /etc/os-release
fi
machine=$(uname -m)

# archive: the root of the distribution's archive, by archives.txt; empty where there is none.
archive() {
    while read -r id version arch root; do
        case "${ID-} ${VERSION_ID-}." in
            "$id $version".*) [ "$arch" != any ] && [ "$arch" != "$machine" ] || { echo "$root"; return; } ;;
        esac
    done <<LINES
$(sed -n '/^[^#]/p' "$here/archives.txt")
LINES
}

# Each way of asking has the form: ask_NAME ROOT PACKAGE..., where an empty ROOT means the base's own repositories.
ask_apt() {
    root=$1
    shift
    set -- -y -qq --no-install-recommends install "$@"
    options='-o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20'
    [ ! -s "$bundle" ] || options="$options -o Acquire::https::CaInfo=$bundle"
    if [ -n "$root" ]; then
        mkdir -p "$work/lists"
        # An archive keeps the lists that were valid when it was closed.
        options="$options -o Acquire::Check-Valid-Until=false -o Dir::State::Lists=$work/lists"
        options="$options -o Dir::Etc::SourceList=$work/sources.list -o Dir::Etc::SourceParts=/dev/null"
        echo "deb $root ${VERSION_CODENAME-stable} main" >"$work/sources.list"
    fi
    # apt-get update ends well where no list could be fetched, before Debian 12; install does not.
    # shellcheck disable=SC2086
    limited apt-get $options -qq update && limited apt-get $options "$@"
}

ask_rpm() {
    root=$1
    shift
    options='--setopt=timeout=20 --setopt=retries=2'
    [ ! -s "$bundle" ] || options="$options --setopt=sslcacert=$bundle"
    if [ -n "$root" ]; then
        case ${VERSION_ID-} in
            7*) parts="os/$machine updates/$machine extras/$machine sclo/$machine/rh sclo/$machine/sclo" ;;
            *) parts="BaseOS/$machine/os AppStream/$machine/os" ;;
        esac
        keys=
        for key in /etc/pki/rpm-gpg/*; do
            [ ! -f "$key" ] || keys="$keys file://$key"
        done
        [ -n "$keys" ] || { echo "this base has no key in /etc/pki/rpm-gpg that could prove these packages"; return 1; }
        mkdir -p "$work/repositories"
        for part in $parts; do
            name=builder-$(printf %s "$part" | tr / -)
            cat <<REPOSITORY
[$name]
name=$name
baseurl=$root/$part/
enabled=1
gpgcheck=1
gpgkey=$keys
skip_if_unavailable=1
REPOSITORY
        done >"$work/repositories/builder.repo"
        options="$options --setopt=reposdir=$work/repositories"
    fi
    # shellcheck disable=SC2086
    limited "$manager" $options install -y "$@"
}

if command -v apt-get >/dev/null 2>&1; then
    manager=apt-get ask=ask_apt
elif command -v dnf >/dev/null 2>&1 || command -v yum >/dev/null 2>&1; then
    manager=$(command -v dnf || command -v yum) ask=ask_rpm
else
    echo "builder-error: there is none of apt-get, dnf and yum to install: $*"
    exit 66
fi

# What dnf, yum, rpm and apt say of a package whose signature is not that of a key which the base has.
untrusted='GPG check FAILED|is not signed|Public key for .* is not installed|SIGNATURES NOT OK|NO_PUBKEY|BADSIG|EXPKEYSIG'

# attempt PLACE ROOT PACKAGE...: one attempt, with its output.
tried=
attempt() {
    place=$1 root=$2
    shift 2
    echo "== $* from $place"
    "$ask" "$root" "$@" >"$work/log" 2>&1 </dev/null
    code=$?
    sed 's/^/  /' "$work/log"
    if [ "$code" -ne 0 ] && grep -qE "$untrusted" "$work/log"; then
        echo "builder-error: a package of $* from $place has no signature that this base trusts"
        exit 67
    fi
    tried="$tried${tried:+, }$place"
    return "$code"
}

done=no
if [ -n "${BUILDER_PACKAGE_MIRROR-}" ] && attempt "the mirror that BUILDER_PACKAGE_MIRROR names" "$BUILDER_PACKAGE_MIRROR" "$@"; then
    done=yes
fi
[ "$done" = yes ] || { attempt "the base's own repositories" '' "$@" && done=yes; }
if [ "$done" = no ]; then
    root=$(archive)
    [ -z "$root" ] || { attempt "the distribution's archive" "$root" "$@" && done=yes; }
fi
case $manager in
    apt-get) rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb /var/cache/apt/*.bin ;;
    *) "$manager" clean all >/dev/null 2>&1; rm -rf /var/cache/dnf /var/cache/yum ;;
esac
if [ "$done" = no ]; then
    echo "builder-error: $* cannot be installed from $tried"
    exit 66
fi
