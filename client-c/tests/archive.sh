#!/bin/sh
# What was built: no state, nothing exported that the header does not name, nothing called that a
# library has no business with, and small. Usage: tests/archive.sh BUILD
set -u
cd "$(dirname "$0")/.."
. tests/tap.sh
build=$1
archive=$build/librocker_client.a
shared=$(echo "$build"/librocker_client.so.*.*.*)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
machine=$($CC -dumpmachine)
# Binary tools of another machine than ours have its name before theirs.
tool()
{
    for name in "$machine-$1" "$(echo "$machine" | sed 's/-pc-/-/;s/-unknown-/-/')-$1" "$1"; do
        if has "$name"; then
            echo "$name"
            return
        fi
    done
}
nm=$(tool nm)
strip=$(tool strip)
readelf=$(tool readelf)
# Of what is loaded of the shared library: code, words and data, without the rest of the page that
# data begins on; and of what a program that only launches links of the archive.
size_max=40960
launch_max=25088
# The command's file.
command_max=40960
stack_max=16384
# An order of 32 KiB is put together on the stack.
orders_stack_max=40960

no_state()
{
    # B, D, C, G, S and their like: data that can be written to.
    if $nm "$archive" | grep -E ' [BbDdCGgSs] '; then
        return 1
    fi
}

exports()
{
    sed -n '/^static/d;s/^[A-Za-z].*[ *]\(ROCKER_[a-z_]*\)(.*/\1/p' include/rocker.h \
        | sort >"$scratch/header"
    $nm -D --defined-only "$shared" | sed -n 's/.* T \([^@]*\).*/\1/p' | sort >"$scratch/shared"
    test -s "$scratch/header" && diff "$scratch/header" "$scratch/shared"
}

imports()
{
    $nm -u "$archive" | sed -n 's/^ *U //p' | sort -u >"$scratch/imports"
    test -s "$scratch/imports" || return 1
    if grep -E -x '(m|c|re)alloc|free|.*printf.*|f?puts|putchar|perror|_*(exit|Exit)|abort|atexit|signal|sigaction|raise|v?fork|system|pthread_.*|getenv|setlocale|dlopen' \
        "$scratch/imports" | grep -v -x _exit; then
        return 1
    fi
}

# The sum of the numbers, hexadecimal ones too.
total()
{
    while read -r number; do echo $((number)); done | awk '{ sum += $1 } END { print sum + 0 }'
}

small()
{
    $strip -o "$scratch/stripped" "$shared"
    bytes=$($readelf -lW "$scratch/stripped" | awk '$1 == "LOAD" { print $5 }' | total)
    echo "$bytes bytes, in a file of $(wc -c <"$scratch/stripped")"
    test "$bytes" -gt 0 && test "$bytes" -le $size_max
}

small_command()
{
    bytes=$(wc -c <"$build/rocker")
    echo "$bytes bytes"
    test "$bytes" -le $command_max
}

# Code and words of a program.
contents()
{
    $readelf -SW "$1" | sed -n 's/.* \.\(text\|rodata\)  *PROGBITS  *[^ ]*  *[^ ]*  *\([^ ]*\).*/0x\2/p' | total
}

# A program that only launches takes nothing of the orders with it.
small_launch()
{
    cat >"$scratch/launch.c" <<'END'
#include <rocker.h>
int main(void)
{
    RockerRequest req = ROCKER_request_new();
    RockerProgram program = ROCKER_program_new("true");
    RockerError error;
    Rocker rocker;
    char line[ROCKER_STRERROR_MAX];
    ROCKER_ERR code = ROCKER_spawn(&req, 0, &program, &rocker, &error);
    ROCKER_strerror(&error, line, sizeof(line));
    return code == ROCKER_ERR_success;
}
END
    $CC -Iinclude "$scratch/launch.c" "$archive" -Wl,-Map="$scratch/map" -o "$scratch/launch" \
        || return 1
    # Each member that was taken, and how much of it.
    sed -n 's/.*librocker_client\.a(\([a-z_]*\)\.o).*/\1/p' "$scratch/map" | sort -u \
        >"$scratch/members"
    if grep -x -E 'open|orders|order_wire|query' "$scratch/members"; then
        return 1
    fi
    echo 'int main(void) { return 0; }' >"$scratch/nothing.c"
    $CC "$scratch/nothing.c" -o "$scratch/nothing" || return 1
    bytes=$(($(contents "$scratch/launch") - $(contents "$scratch/nothing")))
    echo "$bytes bytes"
    test "$bytes" -gt 0 && test "$bytes" -le $launch_max
}

versions()
{
    version=$(sed -n 's/^.define ROCKER_VERSION "\(.*\)"/\1/p' include/rocker.h)
    test "$(basename "$shared")" = "librocker_client.so.$version" || return 1
    $readelf -d "$shared" >"$scratch/dynamic"
    grep SONAME "$scratch/dynamic" | grep -F "[librocker_client.so.${version%%.*}]" || return 1
    grep -q BIND_NOW "$scratch/dynamic" && ! grep -q TEXTREL "$scratch/dynamic" || return 1
    ! $readelf -lW "$shared" | grep -E 'GNU_STACK.*E|LOAD.*RWE'
}

# The compiler tells each function's frame and whom it calls; the deepest chain of them is summed
# up. What is not in it: the C library's own frames, the caller's function, and helper and App
# that share the caller's memory, which have stacks of their own.
stack()
{
    functions=$1
    limit=$2
    for source in src/*.c; do
        $CC -std=c11 $CFLAGS -fPIC -Iinclude -fcallgraph-info=su -c "$source" \
            -o "$scratch/$(basename "$source" .c).o" || return 1
    done
    cat "$scratch"/*.ci | awk '
        /^node:/ { split($0, part, "\""); bytes = part[4]
                   if (bytes ~ /dynamic\)/ && bytes !~ /bounded/) { print "unbounded: " part[2]; bad = 1 }
                   if (sub(/ bytes \(.*/, "", bytes)) { sub(/.*\\n/, "", bytes); frame[part[2]] = bytes + 0 } }
        /^edge:/ { split($0, part, "\""); calls[part[2]] = calls[part[2]] "\n" part[4] }
        function deepest(name, depth,   list, count, i, below, most) {
            if (depth > 50) { print "recursion: " name; bad = 1; return 0 }
            if (name in known) return known[name]
            count = split(calls[name], list, "\n")
            for (i = 2; i <= count; i++) {
                below = deepest(list[i], depth + 1)
                if (below > most) { most = below; next_of[name] = list[i] }
            }
            return known[name] = frame[name] + most
        }
        END { for (name in frame) if (name ~ functions) {
                  if (deepest(name, 0) > most) { most = deepest(name, 0); worst = name } }
              printf "%d bytes:", most
              for (name = worst; name != ""; name = next_of[name]) printf " %s %d", name, frame[name]
              print ""
              exit bad || most == 0 || most > limit }' limit="$limit" functions="$functions"
}

documented()
{
    $CC -std=c11 -Wall -Wextra -Wpedantic -Werror -Iinclude tests/documented.c "$archive" \
        -o "$scratch/static" && "$scratch/static" || return 1
    $CC -std=c11 -Wall -Wextra -Wpedantic -Werror -Iinclude tests/documented.c -L"$build" \
        -lrocker_client -o "$scratch/dynamic" && LD_LIBRARY_PATH="$build" "$scratch/dynamic"
}

documented_cxx()
{
    $cxx -x c++ -std=c++11 -Wall -Wextra -Wpedantic -Werror -Iinclude tests/documented.c \
        -x none "$archive" -o "$scratch/static" && "$scratch/static" || return 1
    $cxx -x c++ -std=c++11 -Wall -Wextra -Wpedantic -Werror -Iinclude tests/documented.c \
        -x none -L"$build" -lrocker_client -o "$scratch/dynamic" \
        && LD_LIBRARY_PATH="$build" "$scratch/dynamic"
}

narrow()
{
    $CC -m32 -ffreestanding -fsyntax-only -std=c11 -Wall -Wextra -Werror -Iinclude tests/abi.c
}

# The block of C in the README, as it stands there.
sample()
{
    sed -n '/^```c$/,/^```$/{//!p;}' README.md >"$scratch/sample.c"
    test -s "$scratch/sample.c" \
        && $CC -std=c11 -Wall -Wextra -Wpedantic -Werror -Iinclude "$scratch/sample.c" \
            "$archive" -o "$scratch/sample"
}

if [ -z "$nm" ] || [ -z "$strip" ] || [ -z "$readelf" ]; then
    skip binaries "there are no nm, strip and readelf"
else
    check "no data that can be written to" no_state
    check "exports are those of the header" exports
    check "no calls that a library has no business with" imports
    case $machine:$($CC --version) in
    *clang*)
        skip size "the limit is that of gcc" ;;
    x86_64*)
        check "the .so has at most $size_max bytes to load" small
        echo "# $(small)"
        check "a program that only launches has at most $launch_max bytes of it" small_launch
        echo "# $(small_launch)"
        check "the command has at most $command_max bytes" small_command
        echo "# $(small_command)" ;;
    *)
        skip size "the limit is that of x86-64" ;;
    esac
    check "soname, version and hardening" versions
fi
if echo 'int x;' | $CC -fcallgraph-info=su -x c -c - -o "$scratch/probe.o" 2>/dev/null; then
    launches='^ROCKER_(enter|spawn|launch|get|kill|signal_app|close|strerror|err_name)'
    check "a launch takes at most $stack_max bytes of stack" stack "$launches" $stack_max
    echo "# $(stack "$launches" $stack_max)"
    check "whatever is done takes at most $orders_stack_max" stack '^ROCKER_' $orders_stack_max
    echo "# $(stack '^ROCKER_' $orders_stack_max)"
else
    skip stack "$CC has no -fcallgraph-info"
fi
check "the documented API in C" documented
cxx=${CXX:-g++}
# The headers of another C library are not for g++, and those of 64 bit not for -m32.
musl=
case $CC in *musl*) musl=yes ;; esac
if has "$cxx" && [ "$($cxx -dumpmachine | cut -d- -f1)" = "${machine%%-*}" ] && [ -z "$musl" ]; then
    check "the documented API in C++" documented_cxx
else
    skip "the documented API in C++" "there is no C++ compiler beside $CC"
fi
if [ -z "$musl" ] && echo 'int x;' | $CC -m32 -ffreestanding -fsyntax-only -x c - 2>/dev/null; then
    check "the layout of 32 bit" narrow
else
    skip "the layout of 32 bit" "$CC has no -m32"
fi
check "the README's sample" sample
finish
