"""Evaluate a run's best checkpoint again: python experiments/evaluate.py --run-dir DIR."""

from echojax.commands import main

if __name__ == "__main__":
    main("evaluate")
