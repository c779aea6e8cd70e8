.PHONY: soak

# Two hundred rounds of kill -9 in the middle of streams. SOAK='--rounds 1000 --seed 7' for others.
SOAK ?= --rounds 200

soak: $(STAMPS)/test
	$(BIN)/python -m tests.soak.kill_loop $(SOAK)
