"""Opening untrusted files: ports in `base`, and the child process that does the decoding."""
