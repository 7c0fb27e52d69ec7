"""Every reader against inputs that are nearly right: a parse or one line, nothing else."""
