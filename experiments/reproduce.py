"""Run a suite of comparisons and write its page: python experiments/reproduce.py --quick."""

from echojax.commands import main

if __name__ == "__main__":
    main("reproduce")
