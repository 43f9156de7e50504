# Keg's targets; `make help` lists them. Debian packages that a target needs are installed by apt-get
# (as root) unless they are there; Rust is not, see .ci/packages.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
TARGET_DIR = $(or $(CARGO_TARGET_DIR),target)
PROGRAMS = keg kegd keg-runtime keg-init containerd-shim-keg-v2

.DEFAULT_GOAL = build
.PHONY: help build demo demo-clean test test-vm bench fuzz hot install uninstall fmt lint doc clean
.NOTPARALLEL:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

build: ## build the programs, optimized, into target/release
	@.ci/packages build
	$(CARGO) build --release --locked $(PROGRAMS:%=--bin %)

demo: ## build, start a private daemon, run first containers, and say what to type next
	@.ci/packages build demo
	$(CARGO) build --release --locked $(PROGRAMS:%=--bin %)
	@manager/cli/demo/run

demo-clean: ## end the demo's daemon and remove all it has made
	@manager/cli/demo/clean

test: ## all checks and all tests (as root: those that need root, too)
	@.ci/packages build test
	@.ci/test

test-vm: ## the tests on pure cgroup v2, with and without systemd, in a virtual machine
	@.ci/packages build test vm
	@integration-tests/vm/run

bench: ## benchmarks against the peers (GROUP=runtime)
	@.ci/packages build test
	$(CARGO) build --release --locked $(PROGRAMS:%=--bin %)
	$(CARGO) bench --locked -p keg-integration-tests --bench bench -- $(or $(GROUP),runtime)

fuzz: ## run the fuzz targets of all crates, each for SECONDS (20)
	@.ci/packages build
	@.ci/fuzz $(or $(SECONDS),20)

hot: ## write anew which code of the runtime is linked together (after larger changes of it, as root)
	@.ci/packages build test
	$(CARGO) rustc --release --locked -p keg-runtime --bin keg-runtime -- \
	    -C link-arg=-Wl,-Map=$(abspath $(TARGET_DIR))/keg-runtime.map
	$(CARGO) build --locked -p keg-integration-tests --bins
	$(TARGET_DIR)/debug/keg-hot $(TARGET_DIR)/keg-runtime.map $(TARGET_DIR)/release/keg-runtime \
	    > $(TARGET_DIR)/hot.ld
	mv $(TARGET_DIR)/hot.ld runtime/link/hot.ld

install: build ## install into PREFIX (default /usr/local), manual pages and completions too
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(PROGRAMS:%=$(TARGET_DIR)/release/%) $(DESTDIR)$(PREFIX)/bin
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 \
	    $(DESTDIR)$(PREFIX)/share/bash-completion/completions \
	    $(DESTDIR)$(PREFIX)/share/zsh/site-functions \
	    $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(TARGET_DIR)/release/keg man $(DESTDIR)$(PREFIX)/share/man/man1
	$(TARGET_DIR)/release/keg completion bash \
	    > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/keg
	$(TARGET_DIR)/release/keg completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_keg
	$(TARGET_DIR)/release/keg completion fish \
	    > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/keg.fish

uninstall: ## remove what install has put into PREFIX
	rm -f $(PROGRAMS:%=$(DESTDIR)$(PREFIX)/bin/%)
	rm -f $(DESTDIR)$(PREFIX)/share/man/man1/keg.1 $(DESTDIR)$(PREFIX)/share/man/man1/keg-*.1 \
	    $(DESTDIR)$(PREFIX)/share/bash-completion/completions/keg \
	    $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_keg \
	    $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/keg.fish

fmt: ## format the sources
	$(CARGO) fmt --all

lint: ## format check, clippy, documentation; no warnings
	@.ci/packages build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --locked

doc: ## documentation of all crates, in target/doc
	$(CARGO) doc --workspace --no-deps --locked

clean: ## remove what was built
	$(CARGO) clean
