"""Where the figures of README.md and RESULTS.md come from: `make bench`."""
