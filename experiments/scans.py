"""Compare the selective scans on this device: python experiments/scans.py."""

from echojax.commands import main

if __name__ == "__main__":
    main("scans")
