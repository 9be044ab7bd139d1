#!/bin/sh
# Runs a dataflow on simulated machines, `front` and those named, which are network namespaces: cluster.sh DORA FLOW MACHINE...
#
# Must be the first process of new network, mount and process namespaces (cluster.rs starts it so): the kernel then
# removes everything made here when this shell ends. Each machine has its own addresses, its own /dev/shm, and a cable to
# `front`, which passes on what they send each other; all share files and processor. The addresses are those for tests of
# network devices (RFC 2544) and not visible outside.
set -eu
dora=$1 flow=$2
shift 2
address_front=198.18.1.1

mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mount -o remount,rw /proc/sys 2>/dev/null || true
[ $# -lt 2 ] || echo 1 >/proc/sys/net/ipv4/ip_forward
ip link set lo up
number=0
for machine; do
    number=$((number + 1))
    ip netns add "$machine"
    ip link add "to-$machine" type veth peer name cable netns "$machine"
    ip address add "198.18.$number.1/30" dev "to-$machine"
    ip link set "to-$machine" up
    ip -n "$machine" address add "198.18.$number.2/30" dev cable
    for interface in lo cable; do ip -n "$machine" link set "$interface" up; done
    ip -n "$machine" route add default via "198.18.$number.1"
done

export DORA_COORDINATOR_ADDR=$address_front
"$dora" coordinator --interface "$address_front" --store memory --quiet &
"$dora" daemon --machine-id front --quiet &
for machine; do
    ip netns exec "$machine" sh -c 'mount -t tmpfs tmpfs /dev/shm && exec "$@"' sh "$dora" daemon --machine-id "$machine" --quiet &
done

tries=0
while :; do
    connected=$("$dora" cluster status 2>&1) || connected=
    missing=
    for machine in front "$@"; do
        echo "$connected" | grep -q "^$machine-[0-9a-f]\{8\}-" || missing=$machine
    done
    [ -n "$missing" ] || break
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || { echo "the daemon of $missing did not connect: $connected"; exit 1; }
    sleep 0.5
done

result=0
timeout 240 "$dora" start "$flow" --attach || result=$?
for machine; do
    awk -v name="to-$machine:" -v machine="$machine" \
        '$1 == name { print "front sent " $10 " bytes to " machine " and received " $2 }' /proc/net/dev
done
exit "$result"
