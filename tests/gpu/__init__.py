"""What streaming does on a GPU, exactness, time, memory: `make gpu`. Run on CPUs in the tests, with tiny images."""
