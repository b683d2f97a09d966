# replp2p: peer-to-peer multi-master replication for PostgreSQL
#
#   make, make install, make installcheck, make clean     as any PGXS extension
#   make demo, make demo-stop                             three clusters at work
#   make check                                            every test
#   make lint                                             what must stay true of the sources
#   make fuzz SECONDS=60                                  libFuzzer on every decoder of foreign bytes
#   make bench                                            figures beside built-in replication and pglogical
#   make sim SEED=n, make sim SEEDS=1..2000               a whole group in one process, replayed from a seed
#   make sim-plants                                       does that find the bugs that are planted in it?
#   make torture NODES=3 SECONDS=60 NEMESES=all SEED=n    live clusters under faults, and checkers
#
# All but the first line work on a bare Debian: they install what is missing.

OURS = check demo demo-stop lint deps unit bench fuzz sim sim-plants torture
ASKED = $(filter $(OURS),$(MAKECMDGOALS))

ifneq ($(ASKED),)

.PHONY: $(OURS)

deps:
	@contrib/dev/install-deps

check: deps
	@contrib/dev/check

unit: deps
	@$(MAKE) --no-print-directory -C t/core check

lint: deps
	@contrib/lint/core_is_pure

fuzz:
	@contrib/dev/install-deps clang libclang-rt-dev
	@$(MAKE) --no-print-directory -C contrib/fuzz fuzz

demo: deps
	@contrib/demo/demo

bench: deps
	@contrib/bench/run

sim: deps
	@$(MAKE) --no-print-directory -C contrib/sim sim

sim-plants: deps
	@$(MAKE) --no-print-directory -C contrib/sim plants

torture: deps
	@TORTURE_SECONDS=$(SECONDS) contrib/torture/run

demo-stop:
	@contrib/demo/demo --stop

# any other goal beside ours
$(filter-out $(OURS),$(MAKECMDGOALS)):
	@$(MAKE) --no-print-directory $@

else

EXTENSION = replp2p
MODULE_big = replp2p
DATA = sql/replp2p--0.1.0.sql

CORE_OBJS = $(patsubst %.c,%.o,$(wildcard src/core/*.c))
PG_OBJS = $(patsubst %.c,%.o,$(wildcard src/pg/*.c))
OBJS = $(CORE_OBJS) $(PG_OBJS)

REGRESS = $(patsubst sql/%.sql,%,$(wildcard sql/[0-9]*.sql))

# WARNINGS= builds with a compiler that knows warnings we have not met yet
WARNINGS = -Wall -Wextra -Wmissing-prototypes -Wno-unused-parameter \
	-Wno-missing-field-initializers -Wno-sign-compare -Werror
PG_CPPFLAGS = -Isrc/core -Isrc/pg -I$(shell $(PG_CONFIG) --includedir) $(EXTRA_CPPFLAGS)
PG_CFLAGS = -std=gnu11 $(WARNINGS)
SHLIB_LINK = -lpq -lsodium -llz4
EXTRA_CLEAN = t/core/build $(DEPFILES)

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifeq ($(wildcard $(PGXS)),)
$(error the server's development files are missing: "make deps" installs them, or set PG_CONFIG)
endif
include $(PGXS)

# Debian's PGXS tracks no header dependencies
DEPFILES = $(OBJS:.o=.d)
override CPPFLAGS += -MMD
-include $(DEPFILES)

endif
