"""Suites of runs, kept up to date in a folder, and the page that compares them."""
