"""Several processes as one run: how they meet, agree on what to do, and end together."""
