#!/usr/bin/env bash
# Brings SwiftShader, a Vulkan driver in software, into build/swiftshader (or the folder given), so that the tests can
# take a model's way through WebGPU on a machine without a graphics card. Nothing is installed: three files of Debian's
# chromium-common are unpacked. Does nothing if they are there; leaves nothing behind if it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

target="${1:-build/swiftshader}"
files=(libvk_swiftshader.so libvulkan.so.1 vk_swiftshader_icd.json)

is_complete() {
    local file
    for file in "${files[@]}"; do
        [[ -s "$target/$file" ]] || return 1
    done
}

is_complete && exit 0
[[ "$(uname -m)" == x86_64 || "$(uname -m)" == aarch64 ]] || { echo "no SwiftShader for $(uname -m)" >&2; exit 1; }
command -v apt-get dpkg-deb >/dev/null || { echo "SwiftShader is fetched with apt-get: not a Debian system" >&2; exit 1; }

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
cd "$work"
apt-get -qq -o APT::Sandbox::User=root download chromium-common 2>/dev/null || {
    apt-get -qq update # a fresh container has no package lists yet
    apt-get -qq -o APT::Sandbox::User=root download chromium-common
}
dpkg-deb -x chromium-common_*.deb unpacked
cd - >/dev/null
mkdir -p "$target"
for file in "${files[@]}"; do # each appears whole or not at all
    cp "$work/unpacked/usr/lib/chromium/$file" "$target/.$file.new"
    mv "$target/.$file.new" "$target/$file"
done
