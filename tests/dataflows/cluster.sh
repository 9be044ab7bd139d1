#!/bin/sh
# Runs a dataflow on two simulated machines, `front` and `gpu`, which are network namespaces: cluster.sh DORA FLOW.
#
# Must be the first process of new network, mount and process namespaces (cluster.rs starts it so): the kernel then
# removes everything made here when this shell ends. Each machine has its own addresses and its own /dev/shm; both
# share files and processor. The addresses are those for tests of network devices (RFC 2544) and not visible outside.
set -eu
dora=$1 flow=$2
address_front=198.18.0.1 address_gpu=198.18.0.2

mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
ip netns add gpu
ip link add front type veth peer name gpu netns gpu
ip address add "$address_front/30" dev front
ip -n gpu address add "$address_gpu/30" dev gpu
for interface in lo front; do ip link set "$interface" up; done
for interface in lo gpu; do ip -n gpu link set "$interface" up; done

export DORA_COORDINATOR_ADDR=$address_front
"$dora" coordinator --interface "$address_front" --store memory --quiet &
"$dora" daemon --machine-id front --quiet &
ip netns exec gpu sh -c 'mount -t tmpfs tmpfs /dev/shm && exec "$@"' sh "$dora" daemon --machine-id gpu --quiet &

tries=0
until connected=$("$dora" cluster status 2>&1) && echo "$connected" | grep -q ^front- && echo "$connected" | grep -q ^gpu-; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || { echo "the daemons did not connect: $connected"; exit 1; }
    sleep 0.5
done

result=0
timeout 240 "$dora" start "$flow" --attach || result=$?
awk '$1 == "front:" { print "front sent " $10 " and received " $2 " bytes over the network" }' /proc/net/dev
exit "$result"
