"""A page on this machine only that asks trained runs and shows what their answers rest on."""
