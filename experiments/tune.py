"""Search a model's flags: python experiments/tune.py --dataset ml-100k --model sasrec."""

from echojax.commands import main

if __name__ == "__main__":
    main("tune")
