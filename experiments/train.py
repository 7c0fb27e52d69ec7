"""Train a sequential recommender: python experiments/train.py --dataset ml-1m."""

from echojax.commands import main

if __name__ == "__main__":
    main("train")
