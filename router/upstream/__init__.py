"""Connections to workers: our own HTTP/1.1 client side, its pool, and the health prober."""
