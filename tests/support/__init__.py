"""Real parts for the tests, the demo and the benchmarks: a Hub on the loopback interface, and small models."""
