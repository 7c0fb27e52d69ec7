"""Tables, figures and pages: of a run, of a suite, of measurements, and to explore a run."""
