# Thin names for what scripts/ and cargo do.

# Format, lint.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --all-features --locked -- -D warnings

# Everything that continuous integration runs.
test:
    ./scripts/test

# The demo server.
serve:
    ./scripts/serve

# Kernel benches.
bench:
    cargo bench -p koma-benches

# Makes the golden fixtures again (never to make a test pass).
golden chat embed:
    python3 scripts/golden.py --chat {{chat}} --embed {{embed}} --out tests/golden
