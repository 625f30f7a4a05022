#!/bin/sh
# Runs as root inside the copy of a Debian base: rearrange.sh MACHINE. Called by enterprise.sh.
#
# Makes of it an Enterprise Linux, for looks. Leaves in /made: "manager" and "tools", lists of the files that only images
# with a package manager, or with all tools, have; for each release the folders "release" and "programs", whose content
# belongs into the root; and in "packages" rpms of some tools, for package servers of tests.
set -eu

machine=$1
triplet=$machine-linux-gnu

apt-get -qq -o APT::Sandbox::User=root update
add() { apt-get -qq -o APT::Sandbox::User=root -o Dpkg::Options::=--force-unsafe-io install -y --no-install-recommends "$@"; }
installed() { dpkg-query -W -f '${Package}\n' | sort -u; }

# files PACKAGE...: what they brought, without folders; their own lists do not know that /bin is /usr/bin now.
files() {
    dpkg -L "$@" | sed -E 's#^/(bin|sbin|lib|lib32|lib64|libx32)(/|$)#/usr/\1\2#' | sort -u | while IFS= read -r file; do
        if [ ! -d "$file" ] || [ -h "$file" ]; then
            if [ -e "$file" ] || [ -h "$file" ]; then printf '%s\n' "${file#/}"; fi
        fi
    done | grep -vE '^usr/share/(doc|man|locale|info|lintian|bash-completion)/|^$' || true
}

installed >/made/0
add dnf rpm
installed >/made/1
add git make xz-utils patch patchelf cmake
installed >/made/2
add locales
localedef -i en_US -f UTF-8 en_US.UTF-8
# Enterprise Linux has no such locale before its release 9 (release 7) or another place of it; programs that ask for it
# must do without.
rm -rf /usr/lib/locale/C.utf8

echo "== interpreters"
# Debian's interpreter knows its own places; a copy below a folder of its own, with a venv around it, is like any other.
own=/opt/_internal/interpreters/3.11
mkdir -p "$own/bin" "$own/lib" "$own/include"
cp /usr/bin/python3.11 "$own/bin/"
cp -a /usr/lib/python3.11 "$own/lib/"
cp -a /usr/include/python3.11 "$own/include/"
cp "/usr/include/$triplet/python3.11/pyconfig.h" "$own/include/python3.11/"
mv /opt/interpreters/bullseye-3.9 /opt/_internal/interpreters/3.9
rm -rf /opt/interpreters /opt/python "$own/lib/python3.11/test" "$own/lib/python3.11/EXTERNALLY-MANAGED"
for version in 3.9 3.11; do
    # The names of the compilers that setuptools calls: Debian's would not be found. And the place of Python.h.
    sed -i -e "s/$triplet-\(g[c+]\)/\1/g" \
        -e "s|[^' ]*/include/python$version|/opt/_internal/interpreters/$version/include/python$version|g" \
        "/opt/_internal/interpreters/$version/lib/python$version"/_sysconfigdata*.py
done
mkdir /opt/python
for version in 3.9 3.11; do
    interpreter=/opt/_internal/interpreters/$version/bin/python$version
    full=$("$interpreter" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
    short=cp${version%%.*}${version#*.}
    "$interpreter" -m venv "/opt/_internal/cpython-$full"
    ln -s "/opt/_internal/cpython-$full" "/opt/python/$short-$short"
done

# The one program that Debian does not have.
/opt/python/cp311-cp311/bin/python -m venv /opt/_internal/tools
/opt/_internal/tools/bin/pip install --quiet auditwheel==6.4.2 pyelftools==0.32 packaging==24.2
ln -s /opt/_internal/tools/bin/auditwheel /usr/local/bin/auditwheel

# toolset NAME VERSION: gcc VERSION with this Debian's binutils below /opt/rh, where it finds all its parts by
# its own place.
toolset() {
    name=$1 version=$2
    echo "== $name"
    rm -rf /made/debs
    mkdir -p "/made/debs/unpacked"
    (
        cd /made/debs
        apt-get -qq -o APT::Sandbox::User=root download "gcc-$version" "g++-$version" "cpp-$version" \
            "libgcc-$version-dev" "libstdc++-$version-dev"
        for package in *.deb; do dpkg-deb -x "$package" unpacked; done
    )
    usr=/made/$release/release/opt/rh/$name/root/usr
    mkdir -p "$usr"
    (cd /made/debs/unpacked/usr && cp -a bin include lib "$usr/")
    (
        cd "$usr/bin"
        for file in "$triplet"-*-"$version"; do
            to=${file#"$triplet-"}
            mv "$file" "${to%-"$version"}"
        done
        find . -type l -name "*-$version" -delete
        ln -s gcc cc
        ln -s g++ c++
        for file in "/usr/bin/$triplet"-*; do
            to=${file#"/usr/bin/$triplet-"}
            # gcc's and Python's own names of these begin so, too.
            case $to in g[cp+]* | cpp* | python*) ;; *) cp -L "$file" "$to" ;; esac
        done
    )
    # Where gcc looks for them when PATH does not lead there.
    mkdir "$usr/$triplet"
    ln -s ../bin "$usr/$triplet/bin"
    # The libraries of gcc's own run time are the system's, as with a real toolset.
    gcc=$usr/lib/gcc/$triplet/$version
    for library in "$gcc"/*.so; do
        [ ! -e "$library" ] || continue
        target=/usr/lib/$triplet/$(basename "$(readlink "$library")")
        if [ -e "$target" ]; then ln -sf "$target" "$library"; else rm -f "$library"; fi
    done
    rm -rf /made/debs
}

# repositories FOLDER NAME...: each of them on a host that will never resolve.
repositories() {
    mkdir -p "$1/etc/yum.repos.d"
    to=$1
    shift
    for repository; do
        cat >"$to/etc/yum.repos.d/$repository.repo" <<TEXT
[$repository]
name=$repository
mirrorlist=http://mirrorlist.invalid/?release=\$releasever&arch=\$basearch&repo=$repository
gpgcheck=1
enabled=1
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-$repository
TEXT
    done
}

# build_rpm NAME VERSION-RELEASE [FIELD...]: builds a package of the files whose names (without the first slash) come on standard
# input. What it needs is in every image already, under names that no rpm provides.
build_rpm() {
    rm -rf /made/rpm
    mkdir -p /made/rpm/root /made/packages
    sed 's#^#/#' >/made/rpm/files
    # A list of no files is an error.
    [ -s /made/rpm/files ] || echo '%dir /' >/made/rpm/files
    grep '^/' /made/rpm/files | xargs -d '\n' -r cp -a --parents -t /made/rpm/root
    {
        printf '%s\n' "Name: $1" "Version: ${2%%-*}" "Release: ${2#*-}" "Summary: $1 for tests" "License: as in Debian" \
            "AutoReqProv: no"
        shift 2
        printf '%s\n' "$@" "%description" "Made from files of Debian, for tests." "%files -f /made/rpm/files"
    } >/made/rpm/spec
    rpmbuild --quiet -bb --buildroot /made/rpm/root --define "_topdir /made/rpm" --define "_dbpath /made/rpm/db" \
        --define "__os_install_post %{nil}" --define "debug_package %{nil}" --define "_build_id_links none" \
        --define "_binary_payload w1.gzdio" --define "_buildhost localhost" --noclean --noprep /made/rpm/spec
    mv /made/rpm/RPMS/*/*.rpm /made/packages/
    rm -rf /made/rpm
}

# system NAME VERSION-RELEASE: the package of the distribution's name, in its data base; dnf knows its release by it.
system() {
    number=${2%%-*}
    build_rpm "$1" "$2" "BuildArch: noarch" "Provides: system-release = $number" \
        "Provides: system-release(releasever) = ${number%%.*}" </dev/null
    mkdir -p "$programs/var/lib/rpm"
    rpm --dbpath "$programs/var/lib/rpm" --force-debian --nodeps -i "/made/packages/$1"-*.rpm
    rm "/made/packages/$1"-*.rpm
}

echo "== packages"
for name in make git patch; do
    files "$name" | build_rpm "$name" "$(dpkg-query -W -f '${source:Upstream-Version}' "$name")-1.test"
done
files xz-utils | build_rpm xz "$(dpkg-query -W -f '${source:Upstream-Version}' xz-utils)-1.test"

for release in el7 el8; do
    root=/made/$release/release
    programs=/made/$release/programs
    mkdir -p "$root/etc/pki/rpm-gpg" "$root/usr/local/bin" "$programs/usr/bin"
    printf '#!/bin/sh\nexec "$@"\n' >"$root/usr/local/bin/manylinux-entrypoint"
    chmod 755 "$root/usr/local/bin/manylinux-entrypoint"
    ln -s ../libexec/dnf "$programs/usr/bin/yum"
    case $release in
        el7)
            cat >"$root/etc/os-release" <<'TEXT'
NAME="CentOS Linux"
VERSION="7 (Core)"
ID="centos"
ID_LIKE="rhel fedora"
VERSION_ID="7"
PRETTY_NAME="CentOS Linux 7 (Core)"
TEXT
            echo "CentOS Linux release 7.9.2009 (Core)" >"$root/etc/redhat-release"
            repositories "$root" CentOS-Base CentOS-SCLo-scl-rh epel
            system centos-release 7-9.2009.1.el7.centos
            toolset devtoolset-9 9 ;;
        el8)
            cat >"$root/etc/os-release" <<'TEXT'
NAME="AlmaLinux"
VERSION="8.10 (Cerulean Leopard)"
ID="almalinux"
ID_LIKE="rhel centos fedora"
VERSION_ID="8.10"
PLATFORM_ID="platform:el8"
PRETTY_NAME="AlmaLinux 8.10 (Cerulean Leopard)"
TEXT
            echo "AlmaLinux release 8.10 (Cerulean Leopard)" >"$root/etc/redhat-release"
            repositories "$root" almalinux-baseos almalinux-appstream epel
            system almalinux-release 8.10-1.el8
            ln -s ../libexec/dnf "$programs/usr/bin/dnf"
            toolset gcc-toolset-11 11 ;;
    esac
done

echo "== what is not there"
# dnf is a Python program, and its interpreter is nobody else's: as on Enterprise Linux 8.
mkdir -p /usr/libexec
mv /usr/bin/python3.11 /usr/libexec/platform-python
sed '1s|.*|#!/usr/libexec/platform-python|' /usr/bin/dnf-3 >/usr/libexec/dnf
chmod 755 /usr/libexec/dnf
mkdir -p /etc/rpm
echo '%_dbpath /var/lib/rpm' >/etc/rpm/macros
cat >/etc/dnf/dnf.conf <<'TEXT'
[main]
gpgcheck=1
installonly_limit=3
clean_requirements_on_remove=True
best=True
skip_if_unavailable=False
TEXT
{
    # shellcheck disable=SC2046
    files $(comm -13 /made/0 /made/1)
    echo usr/libexec/platform-python
    echo usr/libexec/dnf
    echo etc/rpm/macros
} | grep -v '^usr/bin/dnf' | sort -u >/made/manager.all
{
    # shellcheck disable=SC2046
    files git make xz-utils patch patchelf cmake $(comm -13 /made/1 /made/2)
    echo usr/local/bin/auditwheel
} | sort -u >/made/tools.all
files apt dpkg dpkg-dev libdpkg-perl debconf locales build-essential gcc g++ cpp gcc-12 g++-12 cpp-12 libgcc-12-dev \
    libstdc++-12-dev binutils "binutils-$(printf %s "$machine" | tr _ -)-linux-gnu" python3 python3-minimal python3-dev \
    python3.11-dev python3-venv >/made/gone
(cd / && xargs -d '\n' rm -f) </made/gone
rm -rf /usr/bin/python* /usr/bin/pydoc* /usr/bin/2to3* /usr/bin/py3* /usr/bin/pip* /usr/bin/dnf* /usr/bin/yum* /etc/apt /etc/dpkg \
    /etc/debian_version /etc/os-release /usr/lib/os-release /etc/issue* /var/lib/apt /var/lib/dpkg /var/cache/* /var/log/* \
    /usr/share/i18n /usr/share/doc /usr/share/man /usr/share/locale /usr/share/info "/usr/lib/gcc/$triplet/12" /usr/include/c++ \
    /usr/include/python3* "/usr/include/$triplet"/python3* \
    /root/.rpmdb /etc/*-
mkdir -p /var/cache/ldconfig
find /opt /usr/lib /usr/share -depth -name __pycache__ -exec rm -rf {} +
cd /
for list in manager tools; do
    while IFS= read -r file; do
        if [ -e "$file" ] || [ -h "$file" ]; then printf '%s\n' "./$file"; fi
    done <"/made/$list.all" >"/made/$list"
done
find ./opt/_internal/tools ! -type d >>/made/tools
