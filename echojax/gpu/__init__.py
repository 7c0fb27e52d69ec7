"""What a person with a GPU runs: acceptance of the GPU path, and tuning of its block sizes."""
