"""A local web page that shows recommendations of trained runs, and what they are based on."""
