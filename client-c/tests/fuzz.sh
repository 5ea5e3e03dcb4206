#!/bin/sh
# Hostile bytes for the decoders, for so many seconds each. Usage: tests/fuzz.sh BUILD SECONDS
set -u
cd "$(dirname "$0")/.."
. tests/tap.sh
fuzz=$1/fuzz
seconds=$2

# Every finding of libFuzzer's ends it with a status that is not 0.
hunt()
{
    "$fuzz/$1" -max_total_time="$seconds" -max_len=1024 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="$fuzz/" "$fuzz/corpus-$1" "$fuzz/seeds-$1" >"$fuzz/log" 2>&1 \
        || { cat "$fuzz/log"; return 1; }
}

# target NAME SEEDS SOURCE...
target()
{
    target=$1
    seeds=$2
    shift 2
    mkdir -p "$fuzz/corpus-$target" "$fuzz/seeds-$target"
    check "seeds of $target" "$build/test/vectors" "$seeds" "$fuzz/seeds-$target"
    check "build of $target" clang -std=c11 -g -O1 -Iinclude -Isrc -D_POSIX_C_SOURCE=200809L \
        -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all "fuzz/$target.c" "$@" \
        -o "$fuzz/$target"
    check "no findings of $target" hunt "$target"
    echo "# $(sed -n 's/^stat::number_of_executed_units: */runs: /p' "$fuzz/log") in $seconds s"
}

build=$1
target decode --seeds src/wire.c src/words.c src/request.c
target orders --rows src/wire.c src/request.c src/order_wire.c src/orders.c
finish
