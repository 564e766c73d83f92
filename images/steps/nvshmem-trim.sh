#!/bin/sh
# nvshmem-trim.sh FROM PREFIX SITE: what runs of NVSHMEM, and a link where torch looks for its own copy, so that there is only one.
set -eu
from=$1 prefix=$2 site=$3
mkdir -p "$prefix/lib" "$prefix/bin"
cp -a "$from"/lib/*.so* "$prefix/lib/"
cp -a "$from/bin/nvshmem-info" "$prefix/bin/"
cp -a "$from/share" "$prefix/"
ln -s "$prefix" "$site/nvidia/nvshmem"
