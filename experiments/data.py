"""Describe a file or a data set: python experiments/data.py FILE."""

from echojax.commands import main

if __name__ == "__main__":
    main("data")
