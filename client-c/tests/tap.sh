# To be read by the other scripts: TAP, and summaries of it.

number=0
failures=0

# check NAME COMMAND...: a test. Its output is shown if it fails.
check()
{
    name=$1
    shift
    number=$((number + 1))
    if output=$("$@" 2>&1); then
        echo "ok $number - $name"
    else
        echo "$output" | sed 's/^/# /'
        echo "not ok $number - $name"
        failures=$((failures + 1))
    fi
}

# skip NAME REASON
skip()
{
    number=$((number + 1))
    echo "ok $number - $1 # SKIP $2"
}

has()
{
    command -v "$1" >/dev/null 2>&1
}

finish()
{
    echo "1..$number"
    exit $((failures > 0))
}

# summarize NAME COMMAND...: runs what prints TAP, and prints one line, or everything if a test
# failed or the program did not get to its end.
summarize()
{
    name=$1
    shift
    output=$(mktemp)
    if "$@" >"$output" 2>&1 && grep -q '^1\.\.' "$output" && ! grep -q '^not ok' "$output"; then
        echo "ok   $name: $(grep -c '^ok' "$output") tests"
        sed -n 's/^ok .* # SKIP //p' "$output" | sort | uniq -c \
            | sed 's/^ *\([0-9]*\) /     SKIP \1 of them: /'
    else
        cat "$output"
        echo "FAIL $name"
        failures=$((failures + 1))
    fi
    rm -f "$output"
}
