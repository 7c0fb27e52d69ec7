"""Explore trained runs in a browser: python experiments/explore.py --run-dir DIR."""

from echojax.commands import main

if __name__ == "__main__":
    main("explore")
