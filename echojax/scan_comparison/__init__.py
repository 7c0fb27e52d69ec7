"""Selective scans measured side by side: time, memory and error of every one that runs here."""
