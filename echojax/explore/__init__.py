"""A page on this machine alone that asks trained runs and shows what they answer by."""
