"""Workers that are found rather than named: in a file, by DNS, in Kubernetes.

Each source says again and again which workers there are, all of them; what it no longer says is gone.
Nobody hands on single additions or removals, so nothing that was missed once stays wrong for ever.
"""
