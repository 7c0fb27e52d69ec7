"""Export a trained run: python experiments/export.py --run-dir DIR --output model/."""

from echojax.commands import main

if __name__ == "__main__":
    main("export")
