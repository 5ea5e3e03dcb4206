#!/bin/sh
# Hostile bytes for the decoder, for so many seconds. Usage: tests/fuzz.sh BUILD SECONDS
set -u
cd "$(dirname "$0")/.."
. tests/tap.sh
fuzz=$1/fuzz
seconds=$2
mkdir -p "$fuzz/corpus" "$fuzz/seeds"

seeds()
{
    "$1/test/vectors" --seeds "$fuzz/seeds"
}

# Every finding of libFuzzer's ends it with a status that is not 0.
hunt()
{
    "$fuzz/decode" -max_total_time="$seconds" -max_len=1024 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="$fuzz/" "$fuzz/corpus" "$fuzz/seeds" >"$fuzz/log" 2>&1 \
        || { cat "$fuzz/log"; return 1; }
}

check seeds seeds "$1"
check build clang -std=c11 -g -O1 -Iinclude -Isrc -D_POSIX_C_SOURCE=200809L \
    -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
    fuzz/decode.c src/wire.c src/words.c src/request.c -o "$fuzz/decode"
check "no findings" hunt
echo "# $(sed -n 's/^stat::number_of_executed_units: */runs: /p' "$fuzz/log") in $seconds s"
finish
