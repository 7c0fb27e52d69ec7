"""Recommend items: python experiments/recommend.py --run-dir DIR --history 1193,661,914 -k 10."""

from echojax.commands import main

if __name__ == "__main__":
    main("recommend")
