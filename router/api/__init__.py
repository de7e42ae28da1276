"""What clients see: forwarding, traces, metrics, probes."""
