# Sourced by jobs that need torch: `torch_root COMMAND` runs in the disk's root, with the guest's own file systems.
for disk in /sys/block/vd*; do
    [ "$(cat "$disk/serial")" = torch ] && mkdir -p /torch && mount -o ro "/dev/${disk##*/}" /torch
done
for folder in proc sys dev host tmp run; do
    mount --rbind /$folder /torch/$folder
done
torch_root() {
    chroot /torch "$@"
}
