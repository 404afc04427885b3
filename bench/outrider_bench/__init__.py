"""The benchmarks: services, their parts and their peers, measured on this machine. No service imports it."""
