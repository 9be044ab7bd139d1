#!/usr/bin/env bash
# A fuzz campaign: campaign.sh SECONDS [TARGET...]. Prints one line per target: executions, and the inputs on which it failed.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?seconds for each target}
shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(volume checkpoint bundle wire control mrd dicom association)

export LIBTORCH=${LIBTORCH:-$PWD/.spsam/libtorch}
export LD_LIBRARY_PATH=$LIBTORCH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# Coverage counters on the stable compiler; the address sanitizer finds nothing in safe Rust next to a libtorch built without it.
export RUSTC_BOOTSTRAP=1
[ -f fuzz/Cargo.lock ] || cp Cargo.lock fuzz/Cargo.lock
SPSAM_WRITE_CORPUS=$PWD/fuzz/corpus cargo test --release --quiet --test properties -- the_corpus_is_made >/dev/null
for target in "${targets[@]}"; do
    log=fuzz/$target.log
    code=0
    cargo fuzz run --sanitizer none "$target" -- -max_total_time="$seconds" -max_len=4096 -timeout=20 \
        -rss_limit_mb=4096 -print_final_stats=1 >"$log" 2>&1 || code=$?
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    found=$(find "fuzz/artifacts/$target" -type f 2>/dev/null | wc -l)
    echo "$target: ${executions:-?} executions, exit $code, $found failing inputs in fuzz/artifacts/$target ($log)"
done
