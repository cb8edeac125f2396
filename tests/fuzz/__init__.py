"""Short runs of the fuzzer, and its watchman."""
