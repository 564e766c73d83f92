#!/bin/sh
# nvshmem-trim.sh FROM PREFIX SITE: what runs of NVSHMEM, and a link where torch looks for its own copy, so that there is only one.
set -eu
from=$1 prefix=$2 site=$3
mkdir -p "$prefix/lib" "$prefix/bin"
cp -a "$from"/lib/*.so* "$prefix/lib/"
cp -a "$from/bin/nvshmem-info" "$prefix/bin/"
cp -a "$from/share" "$prefix/"
# "Configuring done (7.2s)" would be another in every build.
sed -i -E 's/ \([0-9.]+s\)$//' "$prefix/share/build/configure.log"
ln -s "$prefix" "$site/nvidia/nvshmem"
