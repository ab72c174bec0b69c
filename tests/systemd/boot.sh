#!/bin/bash
# boot.sh CGROUP EXPOSED...: becomes the first process of a machine in namespaces of its own, which
# runs the system's systemd. What it writes to /etc, /var, /srv and /run is seen by nobody else.
# CGROUP is the name of the control groups that the caller has put this process into; the host's
# folders EXPOSED are seen below /srv/exposed/1, 2, ...
set -e
cgroup=$1
shift
terminal=$(tty)
mount --make-rprivate /

# Where folders of the host are shown, before anything is mounted over them.
scratch=/mnt
mount -t tmpfs -o mode=0755 tmpfs "$scratch"
number=0
for folder in "$@"; do
    number=$((number + 1))
    mkdir "$scratch/exposed-$number"
    mount --bind "$folder" "$scratch/exposed-$number"
done
for folder in etc var srv; do
    mkdir "$scratch/$folder" "$scratch/$folder.work"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$scratch/$folder,workdir=$scratch/$folder.work" \
        overlay "/$folder"
done
chmod 0755 /srv
for at in $(seq "$number"); do
    mkdir -p "/srv/exposed/$at"
    mount --move "$scratch/exposed-$at" "/srv/exposed/$at" 2>/dev/null ||
        mount --bind "$scratch/exposed-$at" "/srv/exposed/$at"
done
mount -t tmpfs -o mode=0755 tmpfs /run
# Its own: who ends a service may delete what the service's user left there.
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -o bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys

# Of the system's own units only the targets: no hardware is here to be looked after.
units=/usr/lib/systemd/system
mkdir "$scratch/units"
cp "$units"/*.target "$units"/*.slice "$scratch/units/" 2>/dev/null || true
mount --bind "$scratch/units" "$units"
rm -rf /etc/systemd/system/*
mkdir -p /etc/systemd/system/service.d
cat >/etc/systemd/system/service.d/output.conf <<'END'
[Service]
StandardOutput=append:/run/output-%N
StandardError=append:/run/output-%N
END
cat >/etc/systemd/system/machine.target <<'END'
[Unit]
Description=Machine for tests
Requires=basic.target
After=basic.target
END
[[ -s /etc/machine-id ]] || echo 0123456789abcdef0123456789abcdef >/etc/machine-id

remount_cgroups() {
    if [[ $(stat -fc %T /sys/fs/cgroup) == cgroup2fs ]]; then
        umount -l /sys/fs/cgroup
        mount -t cgroup2 cgroup /sys/fs/cgroup
        return
    fi
    local controllers=()
    for name in unified systemd memory pids; do
        [[ -d /sys/fs/cgroup/$name ]] && controllers+=("$name")
    done
    umount -l /sys/fs/cgroup
    mount -t tmpfs -o mode=0755 tmpfs /sys/fs/cgroup
    for name in "${controllers[@]}"; do
        mkdir "/sys/fs/cgroup/$name"
        case $name in
        unified) mount -t cgroup2 cgroup /sys/fs/cgroup/unified ;;
        systemd) mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd ;;
        *) mount -t cgroup -o "$name" cgroup "/sys/fs/cgroup/$name" ;;
        esac
    done
}
remount_cgroups
mount --bind "$terminal" /dev/console
# Of ourselves with the services' own mounts: systemd brings them their credentials that way.
mount --make-rshared /
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    container=lxc /lib/systemd/systemd --system --unit=machine.target --log-target=console \
    --log-level=info --show-status=no
