"""Write a trained run for use elsewhere: experiments/export.py --run-dir DIR --output model/."""

from echojax.commands import main

if __name__ == "__main__":
    main("export")
