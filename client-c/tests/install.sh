#!/bin/sh
# Installs into a scratch directory, and builds an AppMaster against it in every way that is
# offered. Usage: tests/install.sh BUILD
set -u
cd "$(dirname "$0")/.."
. tests/tap.sh
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root
prefix=$root/opt/rocker
sample=$PWD/tests/documented.c
flags="-std=c11 -Wall -Wextra -Werror"

install_it()
{
    $MAKE --silent --no-print-directory install BUILD="$1" PREFIX=/opt/rocker DESTDIR="$root"
}

whole()
{
    (cd "$prefix" && find . -type f -o -type l) | sort >"$scratch/found"
    sort >"$scratch/wanted" <<END
./include/rocker.h
./include/rocker_err.h
./lib/cmake/rocker_client/rocker_client-config-version.cmake
./lib/cmake/rocker_client/rocker_client-config.cmake
./lib/librocker_client.a
./lib/librocker_client.so
./lib/librocker_client.so.0
./lib/librocker_client.so.$version
./lib/pkgconfig/rocker_client.pc
END
    diff "$scratch/wanted" "$scratch/found"
}

by_hand()
{
    $CC $flags -I"$prefix/include" "$sample" "$prefix/lib/librocker_client.a" \
        -o "$scratch/by_hand" && "$scratch/by_hand"
}

run_shared()
{
    LD_LIBRARY_PATH="$prefix/lib" "$1"
}

by_sysroot()
{
    made=$(PKG_CONFIG_PATH="$prefix/lib/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$root" \
        pkg-config --cflags --libs rocker_client) || return 1
    echo "$made"
    $CC $flags "$sample" $made -o "$scratch/by_sysroot" && run_shared "$scratch/by_sysroot"
}

# Wherever it has been moved to.
by_define_prefix()
{
    mv "$prefix" "$root/moved" || return 1
    made=$(PKG_CONFIG_PATH="$root/moved/lib/pkgconfig" \
        pkg-config --define-prefix --cflags --libs rocker_client)
    echo "$made"
    $CC $flags "$sample" $made -o "$scratch/by_define_prefix" \
        && LD_LIBRARY_PATH="$root/moved/lib" "$scratch/by_define_prefix"
    result=$?
    mv "$root/moved" "$prefix"
    return $result
}

right_version()
{
    test "$(PKG_CONFIG_PATH="$prefix/lib/pkgconfig" pkg-config --modversion rocker_client)" \
        = "$version"
}

by_cmake()
{
    mkdir -p "$scratch/cmake"
    cat >"$scratch/cmake/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.10)
project(app_master C)
find_package(rocker_client 0.1 REQUIRED)
add_executable(shared $sample)
target_link_libraries(shared rocker_client::rocker_client)
add_executable(static $sample)
target_link_libraries(static rocker_client::static)
END
    cmake -S "$scratch/cmake" -B "$scratch/cmake/out" -DCMAKE_PREFIX_PATH="$prefix" \
        -DCMAKE_C_COMPILER="$CC" && cmake --build "$scratch/cmake/out" || return 1
    "$scratch/cmake/out/shared" && "$scratch/cmake/out/static"
}

refused_by_cmake()
{
    sed -i 's/rocker_client 0.1/rocker_client 1.0/' "$scratch/cmake/CMakeLists.txt"
    ! cmake -S "$scratch/cmake" -B "$scratch/cmake/other" -DCMAKE_PREFIX_PATH="$prefix" \
        -DCMAKE_C_COMPILER="$CC"
}

version=$(sed -n 's/^.define ROCKER_VERSION "\(.*\)"/\1/p' include/rocker.h)
check "make install" install_it "$1"
check "everything is there" whole
check "by hand, with the archive" by_hand
if has pkg-config; then
    check "pkg-config with a sysroot" by_sysroot
    check "pkg-config where it was moved to" by_define_prefix
    check "pkg-config names the version" right_version
else
    skip pkg-config "it is not there"
fi
if has cmake; then
    check "cmake finds shared and static" by_cmake
    check "cmake refuses another version" refused_by_cmake
else
    skip cmake "it is not there"
fi
finish
