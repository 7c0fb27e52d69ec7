"""Training disturbed on purpose: killed, out of disk, damaged; then resumed and compared."""
