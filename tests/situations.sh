#!/usr/bin/env bash
# Runs spsam on machines that lack something: tests/situations.sh PROGRAM FOLDER [SITUATION...]
#
# PROGRAM is spsam of a build or of an installed folder; FOLDER gets volumes, results and logs. Each situation prints one
# line: verdict, name, exit code, seconds, number of label maps, and the error line. A run is right if it writes its label
# map and exits with 0, or exits with 1 and one line that names what is missing; none may take longer than LIMIT. The exit
# code is the number of situations that are not right. Mounts are made in separate namespaces, which needs root; without
# root these situations are skipped.
set -u
spsam=$(readlink -f "$1") out=$(mkdir -p "$2" && cd "$2" && pwd) only="${*:3}"
here=$(cd "$(dirname "$0")" && pwd)
python=${SPSAM_PYTHON:-$here/../.spsam/venv/bin/python}
LIMIT=${LIMIT:-60}
wrong=0 skipped=0

[ -d "$out/images" ] || "$python" "$here/python/make_cases.py" "$out/images" "$out/labels" 1 8 || exit 99
image=$(ls "$out"/images/*.nii.gz | head -1)
chmod -R a+rX "$out"
run="$spsam infer --input $image --box one=-10,-10,-10,30,30,30 --device cpu"

line() { # name, kind of expectation (works|either|fails), command
    local name=$1 expected=$2 begin end code last maps verdict=ok
    shift 2
    [ -z "$only" ] || [[ " $only " == *" $name "* ]] || return 0
    rm -rf "$out/$name" "$out/$name.log"; mkdir -p "$out/$name"; chmod a+rwx "$out/$name"
    begin=$(date +%s.%N)
    timeout -k 5 "$LIMIT" "$@" > "$out/$name.log" 2>&1 < /dev/null; code=$?
    end=$(date +%s.%N)
    maps=$(find "$out/$name" -name '*.nii.gz' | wc -l)
    last=$(grep -E '^error:' "$out/$name.log" | tail -1)
    case $code in
        0) [ "$maps" -gt 0 ] && [ "$expected" != fails ] || verdict=WRONG ;;
        124 | 137) verdict=WRONG ;;
        *) [ "$expected" != works ] && [ "$(grep -c '^error:' "$out/$name.log")" -eq 1 ] || verdict=WRONG ;;
    esac
    [ -z "$(find "$out/$name" -name '*.part')" ] || verdict=WRONG
    [ "$verdict" = ok ] || wrong=$((wrong + 1))
    printf '%-5s %-22s exit %3d %6.1f s  %d label maps  %s\n' "$verdict" "$name" "$code" \
        "$(echo "$end - $begin" | bc)" "$maps" "$last"
}
skip() {
    [ -z "$only" ] || [[ " $only " == *" $1 "* ]] || return 0
    skipped=$((skipped + 1)); printf 'skip  %-22s %s\n' "$1" "$2"
}
in_mounts() { # name, expectation, mount command, command
    local name=$1 expected=$2 mounts=$3
    if unshare -m true 2> /dev/null; then
        line "$name" "$expected" unshare -m sh -c "$mounts && exec $4"
    else
        skip "$name" "needs root for a mount namespace"
    fi
}

line plain works $run --output "$out/plain"
for size in 64m 8m 1m 4k; do
    in_mounts shm-$size "$([ $size = 64m ] && echo works || echo either)" \
        "mount -t tmpfs -o size=$size,mode=1777 tmpfs /dev/shm" "$run --output $out/shm-$size"
done
in_mounts shm-read-only either "mount -t tmpfs -o ro tmpfs /dev/shm" "$run --output $out/shm-read-only"
in_mounts tmp-read-only either "mount -t tmpfs -o ro tmpfs /tmp" "$run --output $out/tmp-read-only"
in_mounts output-full fails "mount -t tmpfs -o size=16k tmpfs $out/output-full" "$run --output $out/output-full"
in_mounts output-fills-up fails "mount -t tmpfs -o size=100k tmpfs $out/output-fills-up && \
    head -c 16k /dev/zero > $out/output-fills-up/x" "$run --output $out/output-fills-up"
in_mounts output-read-only fails "mount -t tmpfs -o ro tmpfs $out/output-read-only" "$run --output $out/output-read-only"
line no-home works env -u HOME -u XDG_RUNTIME_DIR $run --output "$out/no-home"
line empty-environment works env -i $run --output "$out/empty-environment"
line handles-256 either sh -c "ulimit -n 256 && exec $run --output $out/handles-256"
if unshare -n true 2> /dev/null; then
    line only-loopback works unshare -n sh -c "ip link set lo up && exec $run --output $out/only-loopback"
    line no-network either unshare -n $run --output "$out/no-network"
else
    skip only-loopback "needs root for a network namespace"
fi
nobody="setpriv --reuid 65534 --regid 65534 --clear-groups"
dora=$("$spsam" doctor 2> /dev/null | sed -n 's/.* dora: .*(\(.*\))$/\1/p')
if $nobody "$spsam" --version > /dev/null 2>&1 && $nobody sh -c '"$0" --version' "${dora:-false}" > /dev/null 2>&1; then
    line another-user works $nobody $run --output "$out/another-user"
    line memlock-64k either $nobody sh -c "ulimit -l 64 && exec $run --output $out/memlock-64k"
else
    skip another-user "needs root, and a program and a Python that another user may read"
fi
line wrong-path fails "$spsam" infer --input "$out/no/such" --box one=0,0,0,9,9,9 --output "$out/wrong-path"
line wrong-model fails "$spsam" infer --input "$image" --model "$out/no-model" --output "$out/wrong-model"
echo "$wrong wrong, $skipped skipped"
exit "$wrong"
