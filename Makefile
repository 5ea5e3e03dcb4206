# make run     pack the example App and run it in a rocker
# make test    every test; those that need root print SKIP without it
# make bench   measure, beside the physical limit; BENCH=--help says what; bench-peers: Debian's
# make build   the programs, in target/rocker, and the C library, in target/client-c
# make install PREFIX=/usr DESTDIR=; for another machine: TARGET=aarch64-unknown-linux-gnu CC=aarch64-linux-gnu-gcc

TARGET  ?= $(shell rustc -vV | sed -n 's/^host: //p')
PREFIX  ?= /usr/local
BIN     := target/rocker
CARGO   := cargo --quiet
RELEASE := $(CARGO) build --locked --release --target $(TARGET)
# The guard needs no other file and no C library, and is to be small: see ARCHITECTURE.md.
STATIC  := --features freestanding --target-dir target/static --config 'profile.release.opt-level="z"' \
	--config 'target.$(TARGET).rustflags=["-Ctarget-feature=+crt-static","-Crelocation-model=static"]'

export CC PREFIX DESTDIR

.PHONY: build release run test check bench bench-peers install clean

build release:
	@$(RELEASE) -p guard --bin rocker-guard $(STATIC)
	@$(RELEASE) -p master -p client-rs
	@mkdir -p $(BIN)
	@cp -p --remove-destination target/static/$(TARGET)/release/rocker-guard $(BIN)/
	@$(MAKE) --silent -C client-c
	@cp -p --remove-destination $(addprefix target/$(TARGET)/release/,rocker-master rocker-cli) target/client-c/rocker $(BIN)/

run: build
	@mkdir -p $(BIN)/example-data
	$(BIN)/rocker pack tests/example $(BIN)/example.sqfs
	$(BIN)/rocker run --trace --data-dir $(BIN)/example-data $(BIN)/example.sqfs

test: build
	@$(MAKE) --silent --no-print-directory -C client-c test
	@$(CARGO) test --locked --workspace --no-fail-fast

check: test
	@$(MAKE) --silent --no-print-directory -C client-c check
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@$(CARGO) clippy --locked -p guard --bin rocker-guard --release --target $(TARGET) $(STATIC) -- -D warnings
	@RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --keep-going

bench: build
	@$(RELEASE) -p tests --bin rocker-bench
	@target/$(TARGET)/release/rocker-bench $(BENCH) $(BIN)

bench-peers:
	apt-get install --yes --no-install-recommends bubblewrap crun runc systemd-container podman docker.io squashfs-tools strace musl-tools

install: build
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin $(BIN)/rocker
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/sbin $(BIN)/rocker-master
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/libexec/rocker $(BIN)/rocker-guard $(BIN)/rocker-cli
	sed 's|/usr/local|$(PREFIX)|' master/rocker-master.service | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/lib/systemd/system/rocker-master.service
	$(MAKE) -C client-c install

clean:
	@$(CARGO) clean
