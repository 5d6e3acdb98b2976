#!/bin/bash
# Builds the XDP objects (landbridge_steer.o of the gateway, landbridge_bench.o of the bench), and proves that the committed
# ones are what their sources build.
#
#   ebpf/build.sh                   build, and write ebpf/prebuilt/
#   ebpf/build.sh --output FILE     build the gateway's object into FILE, leave ebpf/prebuilt/ alone
#   ebpf/build.sh --check-sources   fail where sources have changed since ebpf/prebuilt/ was written; builds nothing
#   ebpf/build.sh --check           the same, then rebuild: with the tool chain of ebpf/prebuilt/TOOLCHAIN the result must
#                                   equal the committed objects byte for byte; with another version of it this says so and
#                                   prints the path of the gateway's rebuilt object, alone on standard output, to be tested as
#                                   LANDBRIDGE_XDP_OBJECT=PATH cargo test -p landbridge --test steer
#   ebpf/build.sh --install-tools   install the tool chain: Debian packages, and bpf-linker into target/tools
#
# Environment: EBPF_RUSTC and EBPF_CARGO name another compiler (a nightly with rust-src, where there is no rustc-web);
# BPF_LINKER another linker. Messages go to standard error.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
repo=$(dirname "$here")
prebuilt=$here/prebuilt
tools=$repo/target/tools
work=$repo/target/ebpf

linker_version=0.13.0
llvm=22
# Each object of ebpf/prebuilt/, and the program of ebpf/Cargo.toml that it is.
objects=(landbridge_steer.o landbridge_bench.o)
declare -A programs=([landbridge_steer.o]=landbridge-ebpf [landbridge_bench.o]=landbridge-ebpf-bench)
packages=(rustc-web cargo-web rust-web-src "libllvm$llvm")
rustc=${EBPF_RUSTC:-/usr/bin/rustc}
cargo=${EBPF_CARGO:-/usr/bin/cargo}

say() { echo "ebpf/build.sh: $*" >&2; }
fail() { say "$*"; exit 1; }

linker() {
    if [[ -n ${BPF_LINKER:-} ]]; then
        echo "$BPF_LINKER"
    elif [[ -x $tools/bin/bpf-linker ]]; then
        echo "$tools/bin/bpf-linker"
    else
        command -v bpf-linker || fail "no bpf-linker here: ebpf/build.sh --install-tools installs it"
    fi
}

# Everything that decides what the object is, this script with its flags included.
sources() {
    cd "$here"
    find Cargo.toml Cargo.lock build.sh src common/Cargo.toml common/src -type f | LC_ALL=C sort | xargs sha256sum
}

# The versions of all that has a hand in the object.
toolchain() {
    local package version
    echo "host $(uname -m)"
    "$rustc" --version
    "$cargo" --version
    "$(linker)" --version
    for package in "${packages[@]}"; do
        version=$(dpkg-query -W -f '${Version}' "$package" 2>/dev/null || true)
        echo "$package ${version:-absent}"
    done
}

require_tools() {
    [[ -x $rustc && -x $cargo ]] || fail "no $rustc and $cargo here: ebpf/build.sh --install-tools installs them (Debian 12)"
    local sysroot
    sysroot=$("$rustc" --print sysroot)
    [[ -d $sysroot/lib/rustlib/src/rust/library/core ]] ||
        fail "$rustc has no source of its core library: ebpf/build.sh --install-tools installs it (Debian 12)"
    strip_tool >/dev/null
    linker >/dev/null
}

strip_tool() {
    command -v "llvm-strip-$llvm" || command -v llvm-strip ||
        fail "no llvm-strip here: ebpf/build.sh --install-tools installs it"
}

# Builds all objects into directory $1. Paths are mapped to names that are the same everywhere; debug information serves only to make BTF.
build() {
    local output=$1 object cargo_home=${CARGO_HOME:-$HOME/.cargo} sysroot registry flags=() separator=$'\x1f' encoded flag
    require_tools
    sysroot=$("$rustc" --print sysroot)
    (cd "$here" && RUSTC=$rustc "$cargo" fetch --quiet --locked >&2) || fail "the crates of ebpf/Cargo.lock cannot be had"
    flags=(
        -Cdebuginfo=2
        -Clink-arg=--btf
        "--remap-path-prefix=$here=ebpf"
        "--remap-path-prefix=$sysroot/lib/rustlib/src/rust=rust"
    )
    # One directory for each registry, with a hash of its address in its name.
    for registry in "$cargo_home"/registry/src/*; do flags+=("--remap-path-prefix=$registry=crates"); done
    encoded=${flags[0]}
    for flag in "${flags[@]:1}"; do encoded+=$separator$flag; done
    say "building with $("$rustc" --version), $("$(linker)" --version)"
    (
        cd "$here"
        # What a developer's shell sets for the gateway's build must not reach this one.
        unset RUSTFLAGS RUSTDOCFLAGS RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER RUSTUP_TOOLCHAIN CARGO_BUILD_TARGET \
            CARGO_INCREMENTAL ${!CARGO_PROFILE_*}
        RUSTC=$rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$work CARGO_ENCODED_RUSTFLAGS=$encoded \
            CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER=$(linker) "$cargo" build --quiet --locked --release \
            --target bpfel-unknown-none -Z build-std=core >&2
    ) || fail "the build failed"
    mkdir -p "$output"
    for object in "${objects[@]}"; do
        cp "$work/bpfel-unknown-none/release/${programs[$object]}" "$output/$object"
        # Keeps .BTF and .BTF.ext, which the kernel reads; drops DWARF, which nobody does.
        "$(strip_tool)" --strip-debug "$output/$object"
    done
}

check_sources() {
    [[ -f $prebuilt/landbridge_steer.o && -f $prebuilt/landbridge_bench.o && -f $prebuilt/SOURCES.sha256 && -f $prebuilt/TOOLCHAIN ]] ||
        fail "ebpf/prebuilt/ is not complete: run ebpf/build.sh and commit what it writes"
    if ! diff "$prebuilt/SOURCES.sha256" <(sources) >&2; then
        fail "these sources have changed since the committed objects were built: run ebpf/build.sh and commit ebpf/prebuilt/"
    fi
    (cd "$prebuilt" && sha256sum --quiet --check OBJECT.sha256 >&2) ||
        fail "a committed object is not the one that was built: run ebpf/build.sh and commit ebpf/prebuilt/"
    say "the committed objects were built from these sources"
}

check() {
    check_sources
    local rebuilt=$work/rebuilt object equal=yes
    build "$rebuilt"
    for object in "${objects[@]}"; do cmp "$prebuilt/$object" "$rebuilt/$object" >&2 || equal=no; done
    if diff "$prebuilt/TOOLCHAIN" <(toolchain) >&2; then
        [[ $equal == yes ]] || fail "the same sources and tool chain built other objects: see $rebuilt"
        say "rebuilt with the same tool chain: equal byte for byte"
    elif [[ $equal == yes ]]; then
        say "rebuilt with another version of the tool chain (above, > is here): equal byte for byte all the same"
    else
        say "the tool chain here is another version (above, > is here), so the rebuilt objects cannot be compared: test them"
        echo "$rebuilt/landbridge_steer.o"
    fi
}

write_prebuilt() {
    local object
    build "$prebuilt"
    sources >"$prebuilt/SOURCES.sha256"
    toolchain >"$prebuilt/TOOLCHAIN"
    (cd "$prebuilt" && sha256sum "${objects[@]}" >OBJECT.sha256)
    for object in "${objects[@]}"; do say "wrote ebpf/prebuilt/$object: $(stat -c %s "$prebuilt/$object") bytes"; done
}

# The versions that built the committed object where the archive still has them, else what it has.
install_tools() {
    local root=() exact=() package version
    [[ $EUID == 0 ]] || root=(sudo)
    command -v apt-get >/dev/null || fail "no apt-get here: use Debian 12, or set EBPF_RUSTC, EBPF_CARGO and BPF_LINKER"
    export DEBIAN_FRONTEND=noninteractive
    "${root[@]}" apt-get update -qq >&2
    apt-cache show rustc-web >/dev/null 2>&1 ||
        fail "this archive has no rustc-web: use Debian 12, or set EBPF_RUSTC and EBPF_CARGO to a nightly with rust-src"
    for package in "${packages[@]}"; do
        version=$(sed -n "s/^$package //p" "$prebuilt/TOOLCHAIN" 2>/dev/null || true)
        if apt-cache madison "$package" | awk '{print $3}' | grep -Fxq -- "${version:-none}"; then
            exact+=("$package=$version")
        else
            say "$package ${version:-(no version on record)} is not in the archive: taking the version that is"
            exact+=("$package")
        fi
    done
    "${root[@]}" apt-get install -y -qq --no-install-recommends --allow-downgrades "${exact[@]}" "llvm-$llvm" \
        "llvm-$llvm-dev" gcc g++ libc6-dev libzstd-dev zlib1g-dev >&2
    if [[ $("$tools/bin/bpf-linker" --version 2>/dev/null) == "bpf-linker $linker_version" ]]; then
        say "bpf-linker $linker_version is there"
        return
    fi
    # Linked to the LLVM of the packages, so that their version is its version.
    env -u CARGO_ENCODED_RUSTFLAGS -u RUSTUP_TOOLCHAIN "LLVM_SYS_221_PREFIX=/usr/lib/llvm-$llvm" "LLVM_PREFIX=/usr/lib/llvm-$llvm" \
        "RUSTFLAGS=-L native=/usr/lib/llvm-$llvm/lib" RUSTC=/usr/bin/rustc "CARGO_TARGET_DIR=$repo/target/tools-build" \
        /usr/bin/cargo install --quiet --locked --root "$tools" --version "$linker_version" --no-default-features \
        --features "llvm-$llvm" bpf-linker >&2
    rm -rf "$repo/target/tools-build"
    say "installed bpf-linker $linker_version into $tools"
}

case "${1:-}" in
    "") write_prebuilt ;;
    --output)
        : "${2:?--output needs a file}"
        build "$work/output"
        cp "$work/output/landbridge_steer.o" "$2"
        ;;
    --check-sources) check_sources ;;
    --check) check ;;
    --install-tools) install_tools ;;
    *) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
