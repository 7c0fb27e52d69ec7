"""How a training step scales over devices: measured here, exchanged bytes, projected elsewhere."""
